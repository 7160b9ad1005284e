// The volume as it lies in the page: packed text in script elements, unpacked once.

const told = JSON.parse(document.getElementById("told").textContent);
const AXES = ["z", "y", "x"];
const shape = told.shape;
const strides = [shape[1] * shape[2], shape[2], 1];
// Sides of a voxel of the page: nm, or full voxels where their size is not known.
const sides = (told.voxelSize || [1, 1, 1]).map((side, axis) => side * told.factors[axis]);

async function unpack(name) {
  const node = document.getElementById(name);
  const text = node.textContent;
  node.remove();
  let bytes;
  if (Uint8Array.fromBase64) {
    bytes = Uint8Array.fromBase64(text);
  } else {
    const letters = atob(text);
    bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function unpackRaw() {
  const raw = new Uint8Array(await unpack("raw"));
  for (let i = 1; i < raw.length; i++) raw[i] += raw[i - 1]; // modulo 256 by its type
  return raw;
}

async function unpackLayer(name, facts) {
  const voxels = await unpack(name);
  const layer = {
    name,
    index: facts.bytes === 2 ? new Uint16Array(voxels) : new Uint32Array(voxels),
    ids: new TextDecoder().decode(await unpack(name + "-ids")).split("\n"),
    colours: new Uint8Array(await unpack(name + "-colours")),
    partners: told.errors ? new Int32Array(await unpack(name + "-partners")) : null,
    sizes: new Float64Array(facts.count),
    picked: new Set(),
  };
  for (let i = 0; i < layer.index.length; i++) layer.sizes[layer.index[i]]++;
  const each = told.factors[0] * told.factors[1] * told.factors[2];
  layer.sizes.forEach((count, number) => { layer.sizes[number] = count * each; });
  layer.order = Array.from(layer.sizes.keys()).filter((n) => n > 0 && layer.sizes[n] > 0);
  layer.order.sort((a, b) => layer.sizes[b] - layer.sizes[a] || a - b);
  return layer;
}

async function unpackAll() {
  if (!window.DecompressionStream) {
    throw new Error("this browser is too old: it takes Chrome 80, Firefox 113, Safari 16.4 or later");
  }
  const data = { raw: document.getElementById("raw") ? await unpackRaw() : null, layers: {} };
  for (const [name, facts] of Object.entries(told.layers)) {
    data.layers[name] = await unpackLayer(name, facts);
  }
  return data;
}

// A voxel of the page as one of the source volume (the middle of those it stands for), and back.
function toSource(place) {
  return place.map((p, axis) => told.origin[axis] + Math.min(
    told.full[axis] - 1, p * told.factors[axis] + Math.floor(told.factors[axis] / 2)));
}

function fromSource(place) {
  return place.map((p, axis) => clamp(
    Math.floor((p - told.origin[axis]) / told.factors[axis]), 0, shape[axis] - 1));
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

function voxelAt(place) {
  return place[0] * strides[0] + place[1] * strides[1] + place[2];
}

// A voxel inside a segment: the middle one, in scan order, of the section that holds most of it.
function insideOf(layer, number) {
  const counts = new Uint32Array(shape[0]);
  const { index } = layer;
  for (let z = 0, i = 0; z < shape[0]; z++) {
    for (const end = i + strides[0]; i < end; i++) if (index[i] === number) counts[z]++;
  }
  const z = counts.indexOf(counts.reduce((a, b) => Math.max(a, b), 0));
  let left = Math.floor(counts[z] / 2);
  for (let i = z * strides[0]; i < (z + 1) * strides[0]; i++) {
    if (index[i] === number && left-- === 0) {
      const inSection = i - z * strides[0];
      return [z, Math.floor(inSection / shape[2]), inSection % shape[2]];
    }
  }
  return null;
}
