// The decision for one image, as trustq/deploy/triage.py and answer.py make it.

const RISK = ["low", "moderate", "high"];
const URGENCY = ["monitor", "routine", "priority", "urgent"];
const MALIGNANT = ["melanoma", "basal_cell_carcinoma", "squamous_cell_carcinoma", "actinic_keratosis"];
const INFLAMMATORY = ["dermatofibroma", "vascular", "non_neoplastic"];

const urgencyOf = (condition) =>
  ["melanoma", "squamous_cell_carcinoma"].includes(condition) ? 3
    : ["basal_cell_carcinoma", "actinic_keratosis"].includes(condition) ? 2
      : condition === "non_neoplastic" ? 1 : 0;

const categoryOf = (condition) =>
  MALIGNANT.includes(condition) ? "malignant"
    : INFLAMMATORY.includes(condition) ? "inflammatory" : "benign";

export function decide(probs, distance, rules) {
  const score = rules.positive.reduce((sum, c) => sum + probs[c], 0);
  const order = probs.map((_, c) => c).sort((a, b) => probs[b] - probs[a] || a - b);
  const top = order.slice(0, 3);
  const condition = rules.conditions[top[0]];
  const inflammatory = INFLAMMATORY.includes(condition);
  const abstained = probs[top[0]] < rules.least_confidence;
  const unlike = !(distance <= rules.outlier_cut);
  let risk = rules.risk_cuts.filter((cut) => score >= cut).length;
  let urgency = rules.urgency_cuts.filter((cut) => score >= cut).length;
  urgency = Math.max(urgency, urgencyOf(condition));
  if (abstained || unlike || inflammatory) risk = Math.max(risk, 1);
  if (abstained || unlike) urgency = Math.max(urgency, 1);
  const cuts = [...rules.risk_cuts, ...rules.urgency_cuts];
  const nearest = Math.min(...cuts.map((cut) => Math.abs(score - cut)));
  const level = [0.1, 0.2].filter((cut) => nearest > cut).length;
  return {
    risk_score: score,
    risk_tier: RISK[risk],
    urgency_tier: URGENCY[urgency],
    confidence: abstained || unlike ? "low" : ["low", "moderate", "high"][level],
    distance_to_cut: nearest,
    abstained, unlike, inflammatory, top,
  };
}

export function answer(probs, distance, check, size, bytes, about) {
  const { rules, texts, classes } = about;
  const decision = decide(probs, distance, rules);
  const urgency = texts.urgency[decision.urgency_tier];
  const title = (c) =>
    rules.conditions[c] === "other" ? classes[c] : texts.conditions[rules.conditions[c]];
  const said = texts.reasons, reasons = [];
  if (decision.unlike) reasons.push(said.unlike);
  if (decision.abstained) reasons.push(said.abstained);
  reasons.push(said.condition.replace("{title}", title(decision.top[0])));
  reasons.push(said.score.replace("{score}", decision.risk_score.toFixed(2)));
  if (decision.inflammatory) reasons.push(said.inflammatory);
  if (check.band === "poor") {
    const advice = check.fired.map((rule) => texts.image[rule]).join(" ");
    reasons.push(said.poor_image.replace("{advice}", advice));
  }
  const advice = check.fired.map((rule) => texts.image[rule]);
  if (bytes > 5000000) {
    advice.push(texts.image.too_large.replace("{megabytes}", (bytes / 1e6).toFixed(1)));
  }
  if (Math.max(...size) > 4000) {
    advice.push(texts.image.many_pixels.replace("{pixels}", String(Math.max(...size))));
  }
  const categories = { malignant: 0, inflammatory: 0, benign: 0 };
  rules.conditions.forEach((condition, c) => { categories[categoryOf(condition)] += probs[c]; });
  return {
    probabilities: Object.fromEntries(classes.map((name, c) => [name, probs[c]])),
    conditions: decision.top.map((c) => ({
      class: classes[c], condition: rules.conditions[c], title: title(c), probability: probs[c],
    })),
    triage_categories: categories,
    risk_score: decision.risk_score,
    risk_tier: decision.risk_tier,
    urgency_tier: decision.urgency_tier,
    urgency: urgency.title,
    within: urgency.within || null,
    recommendation: urgency.recommendation,
    confidence: {
      level: decision.confidence,
      distance_to_cut: decision.distance_to_cut,
      abstained: decision.abstained,
      text: texts.confidence[decision.confidence],
    },
    unlike_training: { unlike: decision.unlike, distance, cut: rules.outlier_cut },
    reasons,
    image: {
      width: size[0], height: size[1], bytes,
      score: check.score, band: check.band, fired: check.fired,
      advice: advice.length ? advice : [texts.image.good],
      measures: check.look,
    },
    model: { name: about.name, variant: about.variant, digest: about.digest },
    disclaimer: texts.disclaimer,
  };
}
