// Pixels: a section of the raw image, and the coloured ids over it at the screen's resolution.

const ERRORS = [
  { name: "right" },
  { name: "cut off (split)", rgb: [0, 115, 178] },
  { name: "joined to another (merge)", rgb: [214, 94, 0] },
  { name: "not segmented", rgb: [240, 227, 66] },
];
const DIMMED = 0.22; // opacity of what is not picked, of that of what is
const NO_RAW = [38, 43, 50]; // behind the colours where no image is shown

function rgba(red, green, blue, alpha) {
  // The bytes of a pixel lie in this order on every machine that browsers run on.
  return ((Math.round(alpha * 255) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

// The paint of each number of a layer; what is picked stands out, or stands alone.
function paints(layer, { alpha, isolate }) {
  const table = new Uint32Array(layer.sizes.length);
  const { colours, picked } = layer;
  for (let n = 1; n < table.length; n++) {
    let strength = alpha;
    if (picked.size) strength = picked.has(n) ? Math.max(alpha, 0.6) : isolate ? 0 : alpha * DIMMED;
    table[n] = rgba(colours[3 * n], colours[3 * n + 1], colours[3 * n + 2], strength);
  }
  return table;
}

function errorPaints(alpha) {
  return Uint32Array.from(ERRORS, ({ rgb }) => (rgb ? rgba(...rgb, alpha) : 0));
}

// The kind of error of a voxel, by the rule of the pictures: partners are mutual or they are not.
function errorKind(segmentation, labels, voxel) {
  const segment = segmentation.index[voxel];
  const object = labels.index[voxel];
  const target = segmentation.partners[segment];
  const main = labels.partners[object];
  if (target === -1 || main === -1) return 0;
  if (segment === 0) return 3;
  if (target !== object) return 2;
  return main === segment ? 0 : 1;
}

// One section of the raw image, a pixel a voxel. u, v, n: axes across, down, and through.
function rawSection(raw, { u, v, n }, at, [black, white]) {
  const canvas = new OffscreenCanvas(shape[u], shape[v]);
  const context = canvas.getContext("2d");
  const image = context.createImageData(shape[u], shape[v]);
  const pixels = new Uint32Array(image.data.buffer);
  const grays = new Uint32Array(256);
  for (let value = 0; value < 256; value++) {
    const gray = clamp(Math.round((255 * (value - black)) / Math.max(1, white - black)), 0, 255);
    grays[value] = rgba(gray, gray, gray, 1);
  }
  let i = 0;
  for (let row = 0; row < shape[v]; row++) {
    let voxel = at * strides[n] + row * strides[v];
    for (let column = 0; column < shape[u]; column++, voxel += strides[u]) pixels[i++] = grays[raw[voxel]];
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// The first voxel of each pixel along one axis; -1 outside the volume.
function voxelsAlong(count, { start, perPixel, side }) {
  const places = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    const voxel = Math.floor(start + (i + 0.5) * perPixel);
    places[i] = voxel < 0 || voxel >= side ? -1 : voxel;
  }
  return places;
}

// The numbers that the pixels of a panel show, row by row; 0 outside.
function numbersShown(value, { u, v, n }, at, across, down, out) {
  let i = 0;
  for (let row = 0; row < down.length; row++) {
    if (down[row] < 0) {
      out.fill(0, i, i + across.length);
      i += across.length;
      continue;
    }
    if (row && down[row] === down[row - 1]) {
      out.copyWithin(i, i - across.length, i);
      i += across.length;
      continue;
    }
    const base = at * strides[n] + down[row] * strides[v];
    for (let column = 0; column < across.length; column++, i++) {
      out[i] = across[column] < 0 ? 0 : value(base + across[column] * strides[u]);
    }
  }
  return out;
}

// Fill the pixels by their numbers; where two numbers meet, a dark line, or lines alone.
function paintNumbers(pixels, numbers, width, table, { linesOnly, reach }) {
  const darks = linesOnly ? null : table.map(darkened);
  const height = numbers.length / width;
  for (let row = 0, i = 0; row < height; row++) {
    for (let column = 0; column < width; column++, i++) {
      const number = numbers[i];
      const paint = table[number];
      let edge = false;
      for (let step = 1; step <= reach && !edge; step++) {
        edge = (column >= step && numbers[i - step] !== number && (paint | table[numbers[i - step]]) !== 0)
          || (row >= step && numbers[i - step * width] !== number
            && (paint | table[numbers[i - step * width]]) !== 0);
        if (linesOnly && !edge) {
          edge = (column + step < width && numbers[i + step] !== number)
            || (row + step < height && numbers[i + step * width] !== number);
        }
      }
      if (linesOnly) pixels[i] = edge && paint ? (paint | 0xff000000) >>> 0 : 0;
      else pixels[i] = edge ? darks[number] : paint;
    }
  }
}

// A paint with a line of black at 55 % over it.
function darkened(paint) {
  const alpha = (paint >>> 24) / 255;
  const out = 0.55 + alpha * 0.45;
  const keep = (alpha * 0.45) / out;
  return rgba(
    Math.round((paint & 255) * keep),
    Math.round(((paint >>> 8) & 255) * keep),
    Math.round(((paint >>> 16) & 255) * keep),
    out,
  );
}

// White one-pixel lines where numbers meet, over what is there.
function outline(pixels, numbers, width) {
  const white = rgba(255, 255, 255, 0.95);
  for (let i = width; i < numbers.length; i++) {
    if (i % width && (numbers[i] !== numbers[i - 1] || numbers[i] !== numbers[i - width])) pixels[i] = white;
  }
}
