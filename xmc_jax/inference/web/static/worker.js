// Loads the model and draws, apart from the page, so that typing and sliders never wait.
//
// The page sends its config, and then requests. Only the newest request matters: an older one ends
// after the image that is being drawn.

import { Model, between, joinPieces, wordMaps } from "./model.js";
import { arc, makeNoise } from "./noise.js";

let model = null, wanted = null, isBusy = false;

onmessage = ({ data }) => {
  if (data.config) load(data.config);
  else {
    wanted = data;
    if (model && !isBusy) work();
  }
};

async function load(config) {
  const started = performance.now();
  try {
    if (typeof WebAssembly === "undefined") throw new Error("This browser has no WebAssembly.");
    const files = {};
    for (const [name, size] of Object.entries(config.files)) {
      const before = Object.values(files).reduce((sum, bytes) => sum + bytes.length, 0);
      files[name] = await fetchWhole(name, size, done =>
        postMessage({ loading: name, loaded: before + done }));
    }
    postMessage({ loading: null });
    model = await Model.load(config, files);
    postMessage({ ready: (performance.now() - started) / 1000 });
    if (wanted) work();
  } catch (error) {
    postMessage({ fatal: error.message });
  }
}

// A file of the folder, whose length is known: compressed transfers do not say it.
async function fetchWhole(name, size, tell) {
  const response = await fetch(new URL(`../${name}`, import.meta.url)).catch(error => {
    throw new Error(`Cannot load ${name}: ${error.message}.`);
  });
  if (!response.ok) throw new Error(`Cannot load ${name}: the server answers ${response.status}.`);
  const bytes = new Uint8Array(size);
  let done = 0;
  for (const reader = response.body.getReader(); ;) {
    const { value } = await reader.read().catch(error => {
      throw new Error(`Cannot load ${name}: ${error.message}.`);
    });
    if (!value) break;
    if (done + value.length <= size) bytes.set(value, done);
    done += value.length;
    tell(Math.min(done, size));
  }
  if (done !== size) throw new Error(`${name} has ${done} bytes, not ${size}: copy it again.`);
  return bytes;
}

async function work() {
  isBusy = true;
  while (wanted) {
    const request = wanted;
    wanted = null;
    await answer(request).catch(error => postMessage({ id: request.id, error: error.message }));
  }
  isBusy = false;
}

async function answer({ id, captions, captionShare, seeds, noiseShare, numImages }) {
  const started = performance.now();
  const texts = await Promise.all(captions.map((caption, i) =>
    captionShare === 1 - i ? null : model.encode(caption)));
  const text = between(...texts, captionShare);
  const words = joinPieces(text.pieces);
  for (let index = 0; index < numImages; index++) {
    const [a, b] = seeds.map(seed => makeNoise(model.config.zDim, seed, index));
    const { pixels, attention } = await model.draw(text, noiseShare ? arc(a, b, noiseShare) : a);
    const maps = attention ? wordMaps(words, text.length, attention) : [];
    postMessage({ id, index, pixels, words: words.map(word => word.text), maps });
    await new Promise(resolve => setTimeout(resolve)); // Lets a newer request come in.
    if (wanted) return;
  }
  const told = texts.filter(Boolean);
  const total = field => told.reduce((sum, x) => sum + x[field], 0);
  const seconds = (performance.now() - started) / 1000;
  postMessage({ id, seconds, cut: total("cut"), unknown: total("unknown") });
}
