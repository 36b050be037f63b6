// The page: reads its controls, asks the worker for images, and shows them.

const element = id => document.getElementById(id);
const config = JSON.parse(element("config").textContent);
const MAX_SEED = 2 ** 31 - 1;
const total = Object.values(config.files).reduce((sum, size) => sum + size, 0);
const megabytes = bytes => (bytes / 1e6).toFixed(1);

let newest = { id: 0 }; // The newest request.
let shown = []; // Per image: its canvases and the maps of its words.
let chosen = null; // Index of the word whose maps are shown; `pinned` stays after the pointer left.
let pinned = null;
let loadedText = "";
let timer = 0;
let isOver = false; // Nothing more will work.

function tell(text) { element("status").textContent = text; }

function fail(text) {
  element("error").textContent = text;
  element("error").hidden = !text;
}

function stop(text) {
  isOver = true;
  element("images").setAttribute("aria-busy", "false");
  element("loading").hidden = true;
  tell("");
  fail(text);
}

function requestDrawing() {
  if (isOver) return;
  const seeds = [element("seed"), element("other-seed")].map(input => input.valueAsNumber);
  if (!seeds.every(seed => Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED))
    return fail(`A seed is a whole number from 0 to ${MAX_SEED}.`);
  fail("");
  newest = {
    id: newest.id + 1,
    captions: [element("caption").value, element("other-caption").value],
    captionShare: Number(element("caption-share").value) / 100,
    seeds,
    noiseShare: Number(element("noise-share").value) / 100,
    numImages: Number(element("count").value),
  };
  element("images").setAttribute("aria-busy", "true");
  worker.postMessage(newest);
}

function showValues() {
  element("count-value").textContent = element("count").value;
  for (const name of ["noise", "caption"])
    element(`${name}-value`).textContent = `${element(`${name}-share`).value} %`;
}

function makeCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

function makeFigure(index) {
  const figure = document.createElement("figure"), frame = document.createElement("div");
  const image = makeCanvas(config.resolution, config.resolution);
  const map = makeCanvas(1, 1);
  image.setAttribute("role", "img");
  image.className = config.resolution < 128 ? "pixelated" : "";
  map.className = "map";
  map.setAttribute("aria-hidden", "true");
  frame.className = "frame";
  frame.append(image, map);
  const save = Object.assign(document.createElement("button"), { type: "button", className: "plain" });
  save.textContent = "Save PNG";
  save.setAttribute("aria-label", `Save image ${index + 1} as PNG`);
  const item = { figure, image, map, maps: [] };
  save.addEventListener("click", () => saveImage(item));
  figure.append(frame, save);
  return item;
}

function fitFigures(count) {
  while (shown.length > count) shown.pop().figure.remove();
  while (shown.length < count) {
    shown.push(makeFigure(shown.length));
    element("images").append(shown.at(-1).figure);
  }
}

function showImage({ index, pixels, words, maps }) {
  if (index === 0) {
    fitFigures(newest.numImages);
    showWords(maps.length ? words : []);
  }
  const item = shown[index], caption = newest.captions[newest.captionShare === 1 ? 1 : 0];
  const data = new ImageData(pixels, config.resolution);
  item.image.getContext("2d").putImageData(data, 0, 0);
  item.image.setAttribute("aria-label", `Image ${index + 1}: ${caption}`);
  const seed = newest.seeds[newest.noiseShare === 1 ? 1 : 0];
  item.name = `${slug(caption)}_${seed}_${index}.png`;
  Object.assign(item, { maps, request: newest.id });
  showMap(item);
  performance.mark("drawn");
}

function dropOlder() { // A request that was not finished leaves images of two captions.
  fitFigures(shown.filter(item => item.request === shown[0].request).length);
}

function slug(text) {
  return text.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 40).replace(/^-+|-+$/g, "") || "image";
}

function saveImage(item) {
  item.image.toBlob(blob => {
    const link = Object.assign(document.createElement("a"), { download: item.name });
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

function showWords(words) {
  const list = element("words"), now = [...list.children].map(button => button.textContent);
  element("word-maps").hidden = !config.hasMaps;
  element("no-maps").hidden = words.length > 0;
  if (words.join("\n") === now.join("\n")) return; // A focused word keeps its focus.
  pinned = chosen = null;
  list.replaceChildren(...words.map((word, index) => {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "plain" });
    button.textContent = word;
    button.setAttribute("aria-pressed", "false");
    const look = () => choose(index), leave = () => choose(pinned);
    for (const [event, act] of [["pointerenter", look], ["focus", look], ["pointerleave", leave], ["blur", leave]])
      button.addEventListener(event, act);
    button.addEventListener("click", () => {
      pinned = pinned === index ? null : index;
      [...list.children].forEach((x, i) => x.setAttribute("aria-pressed", String(i === pinned)));
      choose(pinned);
    });
    return button;
  }));
}

function choose(index) {
  chosen = index;
  shown.forEach(showMap);
}

// Darkens what got a smaller share of the word than the regions that got most of it.
function showMap({ map, maps }) {
  const values = maps[chosen];
  map.hidden = !values;
  if (!values) return;
  const side = Math.sqrt(values.length), most = Math.max(...values);
  Object.assign(map, { width: side, height: side });
  const data = new ImageData(side, side);
  values.forEach((value, i) => { data.data[4 * i + 3] = 190 * (1 - value / most); });
  map.getContext("2d").putImageData(data, 0, 0);
}

function showDone({ seconds, cut, unknown }) {
  const count = shown.length, notes = [];
  if (cut) notes.push(`The model reads ${config.numTokens} word pieces; the last ${cut} are left out.`);
  if (unknown) notes.push(`The model does not know ${unknown} of the words or signs.`);
  tell(`Drew ${count} image${count > 1 ? "s" : ""} in ${seconds.toFixed(2)} s. ${loadedText}${notes.join(" ")}`);
  loadedText = "";
}

function showLoading({ loading, loaded }) {
  if (loading === null) return tell(`Loaded ${megabytes(total)} MB; starting the model.`);
  element("bar").value = loaded / total;
  element("loading-text").textContent = `${megabytes(loaded)} of ${megabytes(total)} MB: ${loading}`;
}

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
worker.addEventListener("error", () => stop(
  "Cannot start drawing: a file of the folder web/ is missing, or this browser has no module workers."));
worker.addEventListener("message", ({ data }) => {
  if (data.fatal) stop(data.fatal);
  else if ("loading" in data) showLoading(data);
  else if (data.ready) {
    performance.mark("ready");
    element("loading").hidden = true;
    loadedText = `Loaded in ${data.ready.toFixed(1)} s. `;
    tell("Drawing.");
  } else if (data.id !== newest.id) return;
  else if ("index" in data) showImage(data);
  else {
    element("images").setAttribute("aria-busy", "false");
    if (!data.error) return showDone(data);
    dropOlder();
    fail(data.error);
  }
});

element("controls").addEventListener("input", () => {
  showValues();
  clearTimeout(timer);
  timer = setTimeout(requestDrawing, 120); // Not at every letter of a word.
});
element("controls").addEventListener("submit", event => {
  event.preventDefault();
  clearTimeout(timer);
  requestDrawing();
});
element("new-seed").addEventListener("click", () => {
  element("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
  requestDrawing();
});
for (const button of element("examples").querySelectorAll("button"))
  button.addEventListener("click", () => {
    element("caption").value = button.textContent;
    element("caption-share").value = 0;
    showValues();
    requestDrawing();
  });

element("loading").hidden = false;
tell(`Loading ${megabytes(total)} MB.`);
showValues();
worker.postMessage({ config });
requestDrawing();
