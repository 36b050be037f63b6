// The exported model in ONNX Runtime: from captions and noise to pixels and maps of words.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { WordPiece } from "./wordpiece.js";

const NAMES = { "[CLS]": "(start)", "[SEP]": "(end)" }; // Of pieces that are no words.
const MAX_KEPT = 8; // Encoded captions: those that sliders and edits come back to.

export class Model {
  // `config` is the page's, and `files` holds the bytes of its files by name.
  static async load(config, files) {
    const lines = new TextDecoder().decode(files["vocab.txt"]).replace(/\r\n?/g, "\n");
    const vocabulary = lines.replace(/\n$/, "").split("\n");
    ort.env.wasm.wasmBinary = files[config.wasm].buffer;
    const open = name => ort.InferenceSession.create(files[name], { executionProviders: ["wasm"] });
    const model = new Model();
    model.config = config;
    model.tokenizer = new WordPiece(vocabulary, config.lowercase);
    model.kept = new Map();
    model.textEncoder = await open("text_encoder.onnx");
    model.generator = await open("generator.onnx");
    return model;
  }

  // The embeddings of a caption, and how many of its pieces are cut off and unknown.
  async encode(caption) {
    if (this.kept.has(caption)) return this.kept.get(caption);
    const { ids, vocabulary } = this.tokenizer, all = this.tokenizer.split(caption);
    if (!all.length) throw new Error("A caption is empty: every image needs words.");
    const read = all.slice(0, this.config.numTokens - 2);
    const tokens = [ids.get("[CLS]"), ...read, ids.get("[SEP]")];
    const input = new ort.Tensor("int32", Int32Array.from(tokens), [1, tokens.length]);
    const { words, sentence } = await this.textEncoder.run({ tokens: input });
    const text = {
      words: words.data, sentence: sentence.data, length: tokens.length,
      pieces: tokens.map(token => vocabulary[token]),
      cut: all.length - read.length,
      unknown: read.filter(token => token === ids.get("[UNK]")).length,
    };
    this.kept.set(caption, text);
    if (this.kept.size > MAX_KEPT) this.kept.delete(this.kept.keys().next().value);
    return text;
  }

  // One image: RGBA pixels, and the weights of the words in each region if the model has them.
  async draw(text, noise) {
    const width = text.sentence.length;
    const { image, attention } = await this.generator.run({
      z: new ort.Tensor("float32", noise, [1, noise.length]),
      words: new ort.Tensor("float32", text.words, [1, text.length, width]),
      sentence: new ort.Tensor("float32", text.sentence, [1, width]),
      word_mask: new ort.Tensor("bool", new Uint8Array(text.length).fill(1), [1, text.length]),
    });
    const pixels = new Uint8ClampedArray(image.data.length / 3 * 4).fill(255);
    image.data.forEach((x, i) => { pixels[i + Math.floor(i / 3)] = (x + 1) * 127.5; });
    return { pixels, attention: attention?.data };
  }
}

// The text at a share of the way between two, as `explore.interpolate_captions` makes it: words of
// the shorter caption are repeated in order. It has no words of its own.
export function between(a, b, share) {
  if (share === 0) return a;
  if (share === 1) return b;
  const length = Math.max(a.length, b.length), width = a.sentence.length;
  const mix = (x, y) => (1 - share) * x + share * y;
  const place = (text, row) => roundEven(row * (text.length - 1) / (length - 1)) * width;
  const words = new Float32Array(length * width);
  for (let row = 0; row < length; row++) {
    const [from, to] = [place(a, row), place(b, row)];
    for (let i = 0; i < width; i++) words[row * width + i] = mix(a.words[from + i], b.words[to + i]);
  }
  return { words, length, sentence: a.sentence.map((x, i) => mix(x, b.sentence[i])), pieces: [] };
}

function roundEven(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + low % 2 : Math.round(x);
}

// The words that pieces make up, each with the places of its pieces.
export function joinPieces(pieces) {
  const words = [];
  pieces.forEach((piece, place) => {
    if (piece.startsWith("##") && words.length) {
      words.at(-1).text += piece.slice(2);
      words.at(-1).places.push(place);
    } else words.push({ text: NAMES[piece] ?? piece, places: [place] });
  });
  return words;
}

// For each word, the sum of its pieces' weights in each region.
export function wordMaps(words, numPieces, attention) {
  const regions = attention.length / numPieces;
  return words.map(({ places }) => Float32Array.from({ length: regions }, (_, region) =>
    places.reduce((sum, place) => sum + attention[region * numPieces + place], 0)));
}
