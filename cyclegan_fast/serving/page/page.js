// The page: an image goes to /translate, the result is shown beside it, and /faithfulness says how far to trust it.

import { slider } from "./slider.js";

const $ = (id) => document.getElementById(id);
const SUFFIXES = { "image/png": "png", "image/jpeg": "jpg", "image/tiff": "tif", "image/webp": "webp", "image/bmp": "bmp" };
const MAX_RETRIES = 5;
const MAPS = ["retranslation", "reconstruction"];
const setBoundary = slider($("compare"), $("handle"));

let engines = [], limits = {}, current = null, urls = [], work = null;

/** A response of the server, or an Error with its sentence. A full queue is asked again. */
async function ask(path, options = {}, retries = MAX_RETRIES) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: check that it runs, and try again.");
  }
  if (response.ok) return response;
  if (response.status === 429 && retries) {
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    $("status").textContent = `The server is busy: trying again in ${seconds} s…`;
    await pause(1000 * seconds, options.signal);
    return ask(path, options, retries - 1);
  }
  let sentence = `The server answered ${response.status}.`;
  try { sentence = (await response.json()).error || sentence; } catch { /* no JSON: a proxy's page */ }
  const error = new Error(sentence[0].toUpperCase() + sentence.slice(1) + (/[.!?]$/.test(sentence) ? "" : "."));
  error.final = [400, 403, 404, 413, 422].includes(response.status);  // the same request fails again
  throw error;
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); });
  });
}

async function start() {
  try {
    ({ engines, ...limits } = await (await ask("engines")).json());
  } catch (error) {
    return fail(error, start);
  }
  const select = $("engine");
  select.replaceChildren(...engines.map((engine) => new Option(title(engine), engine.name)));
  $("engines").hidden = engines.length < 2;
  select.addEventListener("change", () => { describe(); if (current) translate(current); });
  $("limits").textContent = `PNG, JPEG, TIFF, WebP; up to ${megabytes(limits.max_bytes)} and ${pixels(limits.max_pixels)}`;
  describe();
}

const chosen = () => engines.find((engine) => engine.name === $("engine").value) || engines[0];
const title = (engine) => engine.direction ? `${engine.name} (${engine.direction.replace("to", " to ")})` : engine.name;
const megabytes = (bytes) => `${bytes < 2 ** 20 ? (bytes / 2 ** 20).toFixed(1) : Math.floor(bytes / 2 ** 20)} MB`;
const pixels = (count) => count < 1e6 ? `${count.toLocaleString("en")} pixels` : `${Math.floor(count / 1e6)} megapixels`;

function describe() {
  const engine = chosen();
  $("about").textContent = engine.ready ? `${title(engine)}, on ${engine.device}` : `${engine.name} is not loaded`;
}

/** Takes the first image of what was dropped, pasted or chosen. */
function take(files) {
  const file = [...files].find((one) => one.type.startsWith("image/") || /\.tiff?$/i.test(one.name));
  if (!file && files.length) return fail(new Error("That is no image: choose a PNG, JPEG, TIFF or WebP file."));
  if (file) translate(file);
}

async function translate(file) {
  work?.abort();
  work = new AbortController();
  const { signal } = work, engine = chosen();
  current = file;
  $("error").hidden = true;
  if (file.size > limits.max_bytes) {
    return fail(new Error(`The file has ${megabytes(file.size)}, and this server takes ${megabytes(limits.max_bytes)}: choose a smaller one.`));
  }
  try {
    await show(file);
    const query = `engine=${encodeURIComponent(engine.name)}`;
    const started = performance.now();
    const response = await ask(`translate?${query}`, { method: "POST", body: file, signal });
    const seconds = (performance.now() - started) / 1000;
    const result = await response.blob();
    const shown = await displayable(result, query, file, signal);
    await load($("after"), shown);
    offer(result);
    finish(seconds);
    if (engine.faithfulness) await measure(query, file, signal);
  } catch (error) {
    if (error.name !== "AbortError") fail(error, () => translate(file));
  }
}

/** Shows the image while it is translated; of a kind that browsers cannot show, nothing of it. */
async function show(file) {
  forget();
  $("drop").hidden = true;
  $("result").hidden = false;
  $("busy").hidden = false;
  $("faithfulness").hidden = true;
  for (const id of MAPS) $(`${id}-button`).hidden = true;
  showMap(null);
  for (const id of ["after", "before", ...MAPS]) $(id).removeAttribute("src");
  $("download").setAttribute("aria-disabled", "true");
  $("status").textContent = "Translating…";
  setBoundary(50);
  const can = await load($("before"), file).then(() => true, () => false);
  $("compare").classList.toggle("alone", !can);
  if (can) fit($("before"));
}

function finish(seconds) {
  fit($("after"));
  $("busy").hidden = true;
  const { naturalWidth: width, naturalHeight: height } = $("after");
  const alone = $("compare").classList.contains("alone") ? " Browsers cannot show the original of this kind." : "";
  $("status").textContent = `${width} × ${height} pixels, translated in ${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(0)} s.${alone}`;
  if (!alone) $("handle").focus({ preventScroll: true });
}

/** Gives the frame the shape of an image; one of few pixels is shown as pixels. */
function fit(image) {
  const compare = $("compare"), { naturalWidth: width, naturalHeight: height } = image;
  compare.style.setProperty("--ratio", `${width} / ${height}`);
  compare.style.setProperty("--width", width);
  compare.style.setProperty("--height", height);
  for (const one of compare.querySelectorAll("img")) one.classList.toggle("small", width < 200);
}

/** The result as something that an image element shows: TIFF is asked for again, as PNG. */
async function displayable(result, query, file, signal) {
  if (result.type !== "image/tiff") return result;
  const response = await ask(`translate?${query}&format=png`, { method: "POST", body: file, signal });
  return response.blob();
}

function load(image, source) {
  const url = typeof source === "string" ? source : URL.createObjectURL(source);
  if (typeof source !== "string") urls.push(url);
  image.src = url;
  return image.decode();
}

function forget() {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
}

function offer(result) {
  const url = URL.createObjectURL(result);
  urls.push(url);
  const stem = (current.name || "image").replace(/\.[^.]*$/, "");
  $("download").href = url;
  $("download").download = `${stem}_translated.${SUFFIXES[result.type] || "png"}`;
  $("download").setAttribute("aria-disabled", "false");
}

async function measure(query, file, signal) {
  $("faithfulness").hidden = $("measuring").hidden = false;
  $("measured").hidden = true;
  $("measuring").textContent = "Translating it back, and again…";
  try {
    const response = await ask(`faithfulness?${query}`, { method: "POST", body: file, signal });
    const { scores, maps } = await response.json();
    for (const id of MAPS) await load($(id), maps[id]);
    const digits = { after_noise: 3, hidden: 2, gradient_correlation: 2 };
    for (const [name, count] of Object.entries(digits)) $(name).textContent = scores[name]?.toFixed(count) ?? "no number";
    $("verdict").textContent = scores.hidden >= 2
      ? "The translation hides its original in patterns that nobody sees, or has little contrast: a low error says nothing here."
      : "No hidden patterns were found: a little noise hardly changes what it is translated back to.";
    $("measuring").hidden = true;
    $("measured").hidden = false;
    for (const id of MAPS) $(`${id}-button`).hidden = false;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    $("measuring").textContent = `It was not measured. ${error.message}`;
  }
}

/** Shows one of the maps in the place of the translation; none for null. */
function showMap(shown) {
  for (const id of MAPS) {
    $(id).hidden = id !== shown;
    $(`${id}-button`).setAttribute("aria-pressed", id === shown);
  }
  $("right-tag").textContent = { retranslation: "invented?", reconstruction: "lost?" }[shown] ?? "translation";
}

function fail(error, again = null) {
  $("busy").hidden = true;
  $("status").textContent = "";
  $("error-text").textContent = error.message;
  $("error").hidden = false;
  $("retry").hidden = !again || Boolean(error.final);
  $("retry").onclick = () => { $("error").hidden = true; again(); };
  if (!$("after").getAttribute("src")) reset();
}

function reset() {
  $("result").hidden = true;
  $("drop").hidden = false;
}

for (const id of ["file", "camera"]) {
  $(id).addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
}
$("another").addEventListener("click", () => { work?.abort(); current = null; forget(); reset(); $("error").hidden = true; $("file").click(); });
for (const id of MAPS) $(`${id}-button`).addEventListener("click", () => showMap($(id).hidden ? id : null));
document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files);
});
start();
