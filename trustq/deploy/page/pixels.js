// Pixels as Pillow makes them: its resampling in integers, so that page and server see the same
// image; and the checks of a photo. The Python twins are trustq/data/preprocessing.py and
// trustq/deploy/image_checks.py.

const BITS = 22; // Pillow's fixed point

const FILTERS = {
  bilinear: [1, (x) => { x = Math.abs(x); return x < 1 ? 1 - x : 0; }],
  bicubic: [2, (x) => {
    const a = -0.5;
    x = Math.abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
  }],
  lanczos: [3, (x) => {
    const sinc = (v) => (v === 0 ? 1 : Math.sin(v * Math.PI) / (v * Math.PI));
    return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
  }],
};

function coefficients(inSize, from, to, outSize, [reach, filter]) {
  const scale = (to - from) / outSize;
  const filterScale = Math.max(scale, 1);
  const support = reach * filterScale;
  const rows = [];
  for (let out = 0; out < outSize; out++) {
    const center = from + (out + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), inSize);
    const weights = [];
    let total = 0;
    for (let x = 0; x < last - first; x++) {
      const w = filter((x + first - center + 0.5) * (1 / filterScale));
      weights.push(w);
      total += w;
    }
    const fixed = new Int32Array(weights.length);
    for (let x = 0; x < weights.length; x++) {
      const w = (total !== 0 ? weights[x] / total : weights[x]) * 2 ** BITS;
      fixed[x] = Math.trunc(w < 0 ? w - 0.5 : w + 0.5);
    }
    rows.push([first, fixed]);
  }
  return rows;
}

const clip8 = (sum) => { const v = sum >> BITS; return v < 0 ? 0 : v > 255 ? 255 : v; };

// An image is {width, height, data}: three bytes a pixel, row by row.
export function resize(image, width, height, interpolation, box) {
  box = box || [0, 0, image.width, image.height];
  const whole = box[0] === 0 && box[1] === 0 && box[2] === image.width && box[3] === image.height;
  if (whole && width === image.width && height === image.height) return image;
  if (interpolation === "nearest") return nearest(image, width, height, box);
  const filter = FILTERS[interpolation];
  let current = image;
  if (width !== current.width || box[0] !== 0 || box[2] !== width) {
    const rows = coefficients(current.width, box[0], box[2], width, filter);
    const data = new Uint8Array(width * current.height * 3);
    for (let y = 0; y < current.height; y++) {
      for (let x = 0; x < width; x++) {
        const [first, weights] = rows[x];
        let r = 1 << (BITS - 1), g = r, b = r;
        let at = (y * current.width + first) * 3;
        for (let i = 0; i < weights.length; i++, at += 3) {
          r += current.data[at] * weights[i];
          g += current.data[at + 1] * weights[i];
          b += current.data[at + 2] * weights[i];
        }
        const to = (y * width + x) * 3;
        data[to] = clip8(r); data[to + 1] = clip8(g); data[to + 2] = clip8(b);
      }
    }
    current = { width, height: current.height, data };
  }
  if (height !== current.height || box[1] !== 0 || box[3] !== height) {
    const rows = coefficients(current.height, box[1], box[3], height, filter);
    const data = new Uint8Array(width * height * 3);
    const stride = width * 3;
    for (let y = 0; y < height; y++) {
      const [first, weights] = rows[y];
      for (let x = 0; x < stride; x++) {
        let sum = 1 << (BITS - 1);
        for (let i = 0; i < weights.length; i++) {
          sum += current.data[(first + i) * stride + x] * weights[i];
        }
        data[y * stride + x] = clip8(sum);
      }
    }
    current = { width, height, data };
  }
  return current;
}

function nearest(image, width, height, box) {
  const places = (size, from, to, limit) => {
    const step = (to - from) / size, found = [];
    let at = from + step * 0.5;
    for (let i = 0; i < size; i++, at += step) {
      found.push(Math.min(Math.max(Math.floor(at), 0), limit - 1));
    }
    return found;
  };
  const xs = places(width, box[0], box[2], image.width);
  const ys = places(height, box[1], box[3], image.height);
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (ys[y] * image.width + xs[x]) * 3;
      data.set(image.data.subarray(from, from + 3), (y * width + x) * 3);
    }
  }
  return { width, height, data };
}

// The square that the network sees, as Preprocessing.fitted makes it.
export function fitted(image, { size, interpolation, resize: aspect, mean }) {
  if (aspect === "pad") {
    const side = Math.max(image.width, image.height);
    const data = new Uint8Array(side * side * 3);
    const colour = mean.map((v) => roundHalfEven(255 * v));
    for (let i = 0; i < data.length; i += 3) data.set(colour, i);
    const left = Math.floor((side - image.width) / 2), top = Math.floor((side - image.height) / 2);
    for (let y = 0; y < image.height; y++) {
      const row = image.data.subarray(y * image.width * 3, (y + 1) * image.width * 3);
      data.set(row, ((y + top) * side + left) * 3);
    }
    image = { width: side, height: side, data };
  }
  const short = Math.min(image.width, image.height);
  const across = aspect === "crop" ? short : image.width;
  const down = aspect === "crop" ? short : image.height;
  const left = (image.width - across) / 2, top = (image.height - down) / 2;
  return resize(image, size, size, interpolation, [left, top, left + across, top + down]);
}

function roundHalfEven(value) {
  const floor = Math.floor(value), rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

// Normalised input, planes of float32.
export function networkInput(square, { size, mean, std }) {
  const planes = new Float32Array(3 * size * size);
  const f = Math.fround;
  for (let c = 0; c < 3; c++) {
    const m = f(mean[c]), s = f(std[c]);
    for (let i = 0; i < size * size; i++) {
      planes[c * size * size + i] = f(f(f(square.data[i * 3 + c] / 255) - m) / s);
    }
  }
  return planes;
}

export const RULES = ["too_far", "skin", "blur", "dark", "bright", "flat"];
const SIDE = 256, HALVED_FROM = 600;

// Means of blocks, as Pillow's reduce; blocks at the right and lower edge may be smaller.
export function reduce({ width, height, data }, factor) {
  const across = Math.ceil(width / factor), down = Math.ceil(height / factor);
  const found = new Uint8Array(across * down * 3);
  for (let y = 0; y < down; y++) {
    const rows = Math.min(factor, height - y * factor);
    for (let x = 0; x < across; x++) {
      const columns = Math.min(factor, width - x * factor), n = rows * columns;
      // Pillow divides by a rounded reciprocal, kept in single precision.
      const multiplier = Math.trunc(Math.fround(2 ** 32 / (256 * n)));
      for (let c = 0; c < 3; c++) {
        let sum = Math.trunc(n / 2);
        for (let i = 0; i < rows; i++) {
          let at = ((y * factor + i) * width + x * factor) * 3 + c;
          for (let j = 0; j < columns; j++, at += 3) sum += data[at];
        }
        found[(y * across + x) * 3 + c] = Math.floor((sum * multiplier) / 2 ** 24);
      }
    }
  }
  return { width: across, height: down, data: found };
}

export function lookAt(image) {
  const longer = Math.max(image.width, image.height), isLarge = longer > SIDE;
  const scaled = (side) => Math.max(1, Math.floor((side * SIDE) / longer + 0.5));
  const toWidth = scaled(image.width), toHeight = scaled(image.height);
  const factor = Math.max(Math.floor(longer / (2 * SIDE)), longer >= HALVED_FROM ? 2 : 1);
  if (factor > 1) image = reduce(image, factor);
  let shades = { width: image.width, height: image.height, data: greyOf(image.data) };
  let colours = image;
  if (isLarge) {
    shades = resizeGrey(shades, toWidth, toHeight);
    colours = reduce(image, Math.floor(Math.max(image.width, image.height) / (SIDE / 2)));
  }
  const { width, height, data: grey } = shades, n = width * height;
  const counts = new Array(256).fill(0);
  let sum = 0, squares = 0;
  for (const v of grey) { counts[v]++; sum += v; squares += v * v; }
  let total = 0, totalSquares = 0, inner = 0;
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1; x < width - 1; x++) {
      const at = y * width + x;
      const d = grey[at - width] + grey[at + width] + grey[at - 1] + grey[at + 1] - 4 * grey[at];
      total += d; totalSquares += d * d; inner++;
    }
  }
  const threshold = otsu(counts, n);
  let dark = 0;
  for (let v = 0; v <= threshold; v++) dark += counts[v];
  return {
    brightness: sum / n,
    contrast: Math.sqrt(Math.max(squares / n - (sum / n) ** 2, 0)),
    sharpness: inner ? totalSquares / inner - (total / inner) ** 2 : 0,
    skin: skinShare(colours, isLarge ? 1 : 2),
    spot: dark / n,
  };
}

function greyOf(data) {
  const grey = new Uint8Array(data.length / 3);
  for (let i = 0, at = 0; i < grey.length; i++, at += 3) {
    grey[i] = (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 0x8000) >> 16;
  }
  return grey;
}

function resizeGrey({ width, height, data }, toWidth, toHeight) {
  const colour = new Uint8Array(data.length * 3);
  for (let i = 0; i < data.length; i++) colour.fill(data[i], 3 * i, 3 * i + 3);
  const low = resize({ width, height, data: colour }, width, toHeight, "bilinear");
  const small = resize(low, toWidth, toHeight, "bilinear");
  const grey = new Uint8Array(toWidth * toHeight);
  for (let i = 0; i < grey.length; i++) grey[i] = small.data[3 * i];
  return { width: toWidth, height: toHeight, data: grey };
}

function skinShare({ width, height, data }, step) {
  let skin = 0, looked = 0;
  for (let y = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step, looked++) {
      const at = (y * width + x) * 3, r = data[at], g = data[at + 1], b = data[at + 2];
      const cb = 128000000 - 168736 * r - 331264 * g + 500000 * b;
      const cr = 128000000 + 500000 * r - 418688 * g - 81312 * b;
      if (cb >= 77e6 && cb <= 127e6 && cr >= 133e6 && cr <= 173e6) skin++;
    }
  }
  return skin / looked;
}

function otsu(counts, total) {
  let whole = 0;
  counts.forEach((c, v) => { whole += c * v; });
  let below = 0, mass = 0, best = -1, most = -Infinity;
  for (let v = 0; v < 256; v++) {
    below += counts[v]; mass += counts[v] * v;
    const above = total - below;
    if (!below || !above) continue;
    const gap = mass / below - (whole - mass) / above;
    const between = below * above * gap * gap;
    if (between > most) { most = between; best = v; }
  }
  return best;
}

export function checkLook(look, leftOut) {
  const above = (value, steps) => (steps.find(([limit]) => value > limit) || [0, 0])[1];
  const below = (value, steps) => (steps.find(([limit]) => value < limit) || [0, 0])[1];
  const far = look.spot < 0.02;
  const off = {
    too_far: far ? 40 : 0,
    skin: far ? 0 : above(look.skin, [[0.4, 50], [0.2, 20]]),
    blur: below(look.sharpness, [[5, 40], [12, 15]]),
    dark: below(look.brightness, [[60, 35], [90, 10]]),
    bright: above(look.brightness, [[220, 35], [180, 10]]),
    flat: look.contrast < 30 ? 20 : 0,
  };
  const fired = RULES.filter((rule) => off[rule] && !leftOut.includes(rule));
  const score = Math.max(0, 100 - fired.reduce((points, rule) => points + off[rule], 0));
  return { score, band: score >= 80 ? "good" : score >= 60 ? "fair" : "poor", fired, look };
}
