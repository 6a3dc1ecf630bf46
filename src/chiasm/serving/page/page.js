// Everything a server or a file name says goes into the page as text, never as HTML.
const at = (id) => document.getElementById(id);
const STEP = 60, MOST = 500;
let state = { mode: "search", q: "", like: "", likeName: "", names: "", name: "", top: STEP };
let upload = null; // a File; it cannot stand in the address
let turn = 0; // the newest question; older answers that come late are dropped

const made = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const thumbnail = (id) => `/small/${encodeURIComponent(id)}`;

function fromAddress() {
  const given = new URLSearchParams(location.search);
  const names = given.get("names") ?? "";
  state = { mode: given.has("names") ? "names" : "search", q: given.get("q") ?? "", like: given.get("like") ?? "",
    likeName: "", names, name: given.get("name") ?? "", top: STEP };
}

function go(changes) {
  state = { ...state, top: STEP, ...changes };
  const query = new URLSearchParams();
  const keys = state.mode === "names" ? ["names", "name"] : ["q", "like"];
  for (const key of keys) if (state[key] || key === "names") query.set(key, state[key]);
  const address = `?${query}`;
  if (address !== location.search) history.pushState(null, "", address || "/");
  show();
}

async function show() {
  const mine = ++turn;
  const names = state.mode === "names";
  at("search").hidden = names;
  at("names").hidden = !names;
  at("counts").hidden = !names;
  for (const button of document.querySelectorAll(".modes button")) button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode));
  at("words").value = state.q;
  at("list").value = state.names;
  showLike();
  if (names && !state.names) return fill([], [], "Write at least two names; each picture goes to the one that fits it best.");
  at("message").textContent = "…";
  at("hits").setAttribute("aria-busy", "true");
  try {
    const answer = await (names ? fetch(`/names?${new URLSearchParams({ names: state.names, name: state.name, top: state.top })}`) : search());
    const found = await answer.json();
    if (mine !== turn) return;
    if (found.error) return fill([], [], found.error, true);
    const took = found.seconds < 0.1 ? `${Math.round(1000 * found.seconds)} ms` : `${found.seconds.toFixed(1)} s`;
    fill(found.hits, found.counts ?? [], `${found.hits.length} of ${found.total.toLocaleString("en")} pictures, ${took}`);
    const all = names && state.name ? found.counts.find((entry) => entry.name === state.name)?.count ?? 0 : found.total;
    at("more").hidden = found.hits.length >= Math.min(all, MOST);
  } catch (error) {
    if (mine === turn) fill([], [], `No answer: ${error.message}. Is chiasm still running?`, true);
  }
}

function search() {
  const asked = new URLSearchParams({ q: state.q, like: upload ? "" : state.like, top: state.top });
  return fetch(`/search?${asked}`, upload ? { method: "POST", body: upload } : {});
}

function fill(hits, counts, message, wrong = false) {
  at("message").textContent = message;
  at("message").classList.toggle("wrong", wrong);
  at("hits").removeAttribute("aria-busy");
  at("hits").replaceChildren(...hits.map(hit));
  at("counts").replaceChildren(...counts.map((entry) => count(entry, Math.max(...counts.map((other) => other.count), 1))));
  at("more").hidden = true;
}

function hit(entry) {
  const item = made("li", "hit");
  const see = made("button", "see"), open = made("button", "open", "⤢");
  const picture = made("img");
  see.type = open.type = "button";
  see.title = "Like this";
  see.setAttribute("aria-label", `Find pictures like ${entry.name}`);
  open.setAttribute("aria-label", `Look closer at ${entry.name}`);
  picture.loading = "lazy";
  picture.alt = entry.name;
  picture.src = thumbnail(entry.id);
  picture.addEventListener("error", () => picture.classList.add("gone"));
  see.append(picture);
  see.addEventListener("click", () => like(entry));
  open.addEventListener("click", () => closer(entry));
  see.addEventListener("keydown", (event) => { if (event.key === "o") closer(entry); });
  const name = made("span", "name");
  if (entry.best !== undefined) name.append(made("b", "", `${entry.best} ${entry.probability > 0.995 ? "> 99" : (100 * entry.probability).toFixed(0)}%`));
  name.title = entry.name;
  name.append(made("span", "", entry.name));
  if (typeof entry.score === "number") name.append(made("span", "score", entry.score.toFixed(3)));
  item.append(see, open, name);
  return item;
}

function count(entry, most) {
  const item = made("li"), button = made("button"), bar = made("span", "bar"), part = made("span");
  button.type = "button";
  button.setAttribute("aria-pressed", String(entry.name === state.name));
  part.style.width = `${(100 * entry.count) / most}%`;
  bar.append(part);
  button.append(made("span", "", entry.name), made("span", "number", String(entry.count)), bar);
  button.addEventListener("click", () => go({ name: entry.name === state.name ? "" : entry.name }));
  item.append(button);
  return item;
}

function like(entry) {
  upload = null;
  at("closer").close();
  scrollTo({ top: 0 });
  go({ mode: "search", like: entry.id, likeName: entry.name });
}

function take(file) {
  if (!file || !file.type.startsWith("image/")) return;
  upload = file;
  go({ mode: "search", like: "", likeName: "" });
}

let shownFile = null, shownUrl = "";
function showLike() {
  const box = at("like"), picture = box.querySelector("img");
  box.hidden = !upload && !state.like;
  if (upload !== shownFile) {
    URL.revokeObjectURL(shownUrl);
    shownUrl = upload ? URL.createObjectURL(upload) : "";
    shownFile = upload;
  }
  if (box.hidden) return picture.removeAttribute("src");
  picture.src = upload ? shownUrl : thumbnail(state.like);
  box.querySelector("span").textContent = `like ${upload ? upload.name : state.likeName || "this picture"}`;
}

function closer(entry) {
  const dialog = at("closer"), picture = dialog.querySelector("img");
  picture.src = `/large/${encodeURIComponent(entry.id)}`;
  picture.alt = entry.name;
  dialog.querySelector("span").textContent = entry.name;
  dialog.querySelector(".again").onclick = () => like(entry);
  dialog.showModal();
}

at("search").addEventListener("submit", (event) => { event.preventDefault(); go({ q: at("words").value.trim() }); });
at("names").addEventListener("submit", (event) => { event.preventDefault(); go({ names: at("list").value.trim(), name: "" }); });
at("file").addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });
at("like").querySelector("button").addEventListener("click", () => { upload = null; go({ like: "", likeName: "" }); });
at("more").addEventListener("click", () => { state.top = Math.min(state.top + STEP, MOST); show(); });
at("closer").querySelector(".shut").addEventListener("click", () => at("closer").close());
at("closer").addEventListener("click", (event) => { if (event.target === at("closer")) at("closer").close(); });
for (const button of document.querySelectorAll(".modes button")) button.addEventListener("click", () => go({ mode: button.dataset.mode }));
addEventListener("popstate", () => { upload = null; fromAddress(); show(); });
addEventListener("paste", (event) => take(event.clipboardData?.files[0]));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("dropping"); take(event.dataTransfer.files[0]); });
addEventListener("keydown", (event) => {
  if (at("closer").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = state.mode === "names" ? at("list") : at("words");
  if (event.key === "/" && event.target.tagName !== "INPUT") { event.preventDefault(); return field.focus(); }
  const pictures = [...document.querySelectorAll(".see")];
  const here = pictures.indexOf(document.activeElement);
  if (here < 0) {
    if (event.key === "ArrowDown" && event.target === field && pictures.length) { event.preventDefault(); pictures[0].focus(); }
    return;
  }
  const columns = getComputedStyle(at("hits")).gridTemplateColumns.split(" ").length;
  const next = here + ({ ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key] ?? 0);
  if (next === here) return;
  event.preventDefault();
  if (next < 0) field.focus(); else pictures[Math.min(next, pictures.length - 1)].focus();
});

fetch("/about").then((answer) => answer.json()).then((about) => {
  at("folder").textContent = about.folder.split(/[\\/]/).filter(Boolean).pop() ?? about.folder;
  at("place").textContent = `${about.pictures.toLocaleString("en")} pictures in ${about.folder}`;
  document.title = `${at("folder").textContent} – chiasm search`;
}, () => {});
fromAddress();
show();
