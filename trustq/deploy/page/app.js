// The page: a photo to an answer, in the browser where the model is there, else by the server.
import { answer } from "/triage.js";
import { checkLook, fitted, lookAt, networkInput } from "/pixels.js";

const by = (id) => document.getElementById(id);
const KINDS = [
  [[0xff, 0xd8, 0xff], 0],
  [[0x89, 0x50, 0x4e, 0x47], 0],
  [[0x57, 0x45, 0x42, 0x50], 8],
];
let about, runModel, shown;

async function start() {
  about = await (await fetch("/about.json")).json();
  by("name").textContent = about.name;
  by("disclaimer-text").textContent = about.warning + about.texts.disclaimer;
  by("again").textContent = about.warning + about.texts.disclaimer;
  by("privacy").textContent = about.in_browser
    ? "The photo stays on this device: the model runs in this page."
    : "The photo is sent to this server, which does not store it.";
  by("facts").textContent =
    `Model ${about.digest.slice(0, 8)} (${about.variant}), trained on ${about.dataset}. ` +
    `Right on ${percent(about.accuracy.value)} of ${about.n_test} test images` +
    `${range(about.accuracy)}. ${about.licence}.`;
  by("accept").addEventListener("click", () => {
    by("accept").hidden = true;
    by("ask").hidden = false;
  });
  for (const id of ["camera", "upload"]) {
    by(id).addEventListener("change", (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) show(file);
    });
  }
  const worker = keepOffline();
  if (about.in_browser) await loadModel();
  await worker;
  by("state").textContent = about.in_browser ? ready() : "Ready.";
  document.documentElement.dataset.ready = "true";
}

const percent = (share) => `${Math.round(100 * share)} %`;
// A photo rules nothing out and proves nothing: never 0 or 100 %.
const chance = (share) =>
  share < 0.01 ? "under 1 %" : share > 0.99 ? "over 99 %" : percent(share);
const range = ({ lower, upper }) =>
  lower === null || upper === null ? "" : ` (95 % interval ${percent(lower)} to ${percent(upper)})`;
const ready = () =>
  navigator.serviceWorker && navigator.serviceWorker.controller
    ? "Ready, also without a network." : "Ready.";

async function keepOffline() {
  // Browsers give service workers to https and to this very machine only.
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("/sw.js");
    await navigator.serviceWorker.ready;
    if (!navigator.serviceWorker.controller) {
      await new Promise((done) => {
        navigator.serviceWorker.addEventListener("controllerchange", done, { once: true });
        setTimeout(done, 5000);
      });
    }
  } catch (error) {
    console.warn("The page cannot be kept for offline use:", error);
  }
}

async function loadModel() {
  const ort = await import("/ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = "/ort/";
  ort.env.wasm.numThreads = 1;
  const content = await (await fetch("/model.onnx")).arrayBuffer();
  const session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
  runModel = async (planes) => {
    const { size } = about.preprocessing;
    const image = new ort.Tensor("float32", planes, [1, 3, size, size]);
    const found = await session.run({ image }, ["probabilities", "distance"]);
    return [Array.from(found.probabilities.data), Number(found.distance.data[0])];
  };
}

async function show(file) {
  by("error").hidden = true;
  by("answer").hidden = true;
  document.documentElement.dataset.answered = "";
  by("state").textContent = "Looking…";
  try {
    const found = await answerFor(file);
    render(found, file);
    document.documentElement.dataset.answered = JSON.stringify(found);
  } catch (error) {
    by("error").textContent = error.message || "The photo could not be read. Try another one.";
    by("error").hidden = false;
  }
  by("state").textContent = about.in_browser ? ready() : "Ready.";
}

async function answerFor(file) {
  if (file.size > about.most_bytes) {
    throw new Error(`An image may have at most ${about.most_bytes / 1e6} MB; take a smaller one.`);
  }
  const head = new Uint8Array(await file.slice(0, 16).arrayBuffer());
  if (!KINDS.some(([bytes, at]) => bytes.every((b, i) => head[at + i] === b))) {
    throw new Error("That is not a JPEG, PNG or WebP image.");
  }
  if (!about.in_browser) return fromServer(file);
  const image = await decoded(file);
  if (Math.max(image.width, image.height) > about.most_side) {
    throw new Error(`An image may have at most ${about.most_side} pixels on a side.`);
  }
  const check = checkLook(lookAt(image), about.left_out);
  const square = fitted(image, about.preprocessing);
  const [probs, distance] = await runModel(networkInput(square, about.preprocessing));
  return answer(probs, distance, check, [image.width, image.height], file.size, about);
}

async function fromServer(file) {
  let response;
  try {
    response = await fetch("/api/analyze", {
      method: "POST", body: file, headers: { "content-type": "application/octet-stream" },
    });
  } catch {
    throw new Error("The server cannot be reached, and this model does not run in the page.");
  }
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}

async function decoded(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none", imageOrientation: "from-image",
    });
  } catch {
    throw new Error("The image is damaged or cannot be read. Take another one.");
  }
  const { width, height } = bitmap;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from]; data[to + 1] = rgba[from + 1]; data[to + 2] = rgba[from + 2];
  }
  return { width, height, data };
}

function render(found, file) {
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  by("photo").src = shown;
  by("tier").className = found.urgency_tier;
  by("urgency").textContent = found.within ? `${found.urgency}: ${found.within}` : found.urgency;
  by("recommendation").textContent = found.recommendation;
  by("sure").textContent = `${about.texts.risk[found.risk_tier]} ${found.confidence.text}`;
  fill("reasons", found.reasons, (text, item) => { item.textContent = text; });
  fill("conditions", found.conditions, (condition, item) => {
    item.append(`${condition.title}: ${chance(condition.probability)}`);
    const bar = document.createElement("progress");
    bar.max = 1;
    bar.value = condition.probability;
    bar.setAttribute("aria-hidden", "true");
    item.append(bar);
  });
  by("quality").textContent =
    `${found.image.score} of 100, ${found.image.band}. ${found.image.advice.join(" ")}`;
  by("answer").hidden = false;
  by("answer").scrollIntoView({ block: "start" });
}

function fill(id, values, put) {
  const list = by(id);
  list.replaceChildren(...values.map((value) => {
    const item = document.createElement("li");
    put(value, item);
    return item;
  }));
}

start().catch((error) => {
  by("state").textContent = "The page could not be loaded: reload it.";
  console.error(error);
});
