// The page: the connection, the controls, and the moment of a recording.

import { Camera, VIEWS, split } from "./picture.js";
import { Parameters, Plots } from "./node.js";

const $ = (id) => document.getElementById(id);
const shared = { view: "overlay", alpha: 0.5, hidden: new Set(), source: 0 };
const cameras = new Map();
const plots = new Plots($("plots"));
const parameters = new Parameters($("form"), (name, value) => send({ set: { name, value } }));
let socket = null, state = null, times = null, wait = 500, shape = "";
let index = 0, asked = -1, playing = false, playedFrom = null;

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  let order = Promise.resolve();
  socket.onopen = () => {
    wait = 500;
    link("connected", true);
  };
  socket.onclose = () => {
    link("not connected", false);
    setTimeout(connect, wait);
    wait = Math.min(5000, wait * 2);
  };
  // In order: an answer says that the frames before it are drawn.
  socket.onmessage = ({ data }) => {
    order = order.then(() => (typeof data === "string" ? hear(JSON.parse(data)) : take(data))).catch(console.error);
  };
}

function link(text, there) {
  $("link").textContent = text;
  $("link").classList.toggle("away", !there);
}

async function take(data) {
  const { head, parts } = split(data);
  const camera = cameras.get(head.camera);
  try {
    await camera?.take(head, parts);
  } finally {
    send({ shown: head.camera });
  }
}

const hearers = {
  state: begin,
  read: ({ read }) => note(`reading the recording: ${read[0]} of ${read[1]} messages`),
  at: ({ index: at }) => arrived(at),
  stats: (news) => plots.add(news),
  level: (news) => plots.tell(news),
  parameters: ({ parameters: all }) => showParameters(all),
  parameter: ({ name, value }) => parameters.set(name, value),
  answer: (news) => parameters.answer(news),
  fault: ({ reason }) => note(reason),
};

function hear(news) {
  hearers[news.type]?.(news);
}

function note(text) {
  $("note").textContent = text;
  $("note").hidden = !text;
}

function begin(news) {
  playing = state ? playing : news.live; // a recording begins where a viewer can look
  state = news;
  document.title = `m2f view: ${state.title}`;
  $("title").textContent = state.title;
  note(!state.live && !state.times ? "reading the recording" : state.note);
  times = state.times ?? null;
  const before = shape;
  shape = JSON.stringify(state.cameras);
  if (shape !== before) {
    cameras.clear();
    for (const info of state.cameras) cameras.set(info.name, new Camera(info, shared, showShares));
    $("cameras").replaceChildren(...[...cameras.values()].map((camera) => camera.figure));
    showSources();
    showLegend();
  }
  plots.keep(state.cameras.map(({ name }) => name));
  $("node").hidden = !state.live || !state.cameras.length;
  $("back").hidden = $("forth").hidden = $("seek").hidden = $("moment").hidden = state.live;
  $("confidence-row").hidden = !anyConfidence();
  document.querySelector('[name="view"][value="confidence"]').disabled = !anyConfidence();
  if (state.live) showParameters(state.parameters ?? []);
  else if (shape !== before && anyConfidence()) $("confidence").checked = true; // it is there already
  if (times) {
    $("seek").max = times.length - 1;
    asked = -1;
    go(Math.min(index, times.length - 1));
  }
  play(playing);
  want();
}

function anyConfidence() {
  return state.cameras.some(({ confidence }) => confidence.some(Boolean));
}

function showParameters(all) {
  $("parameters").hidden = !all.length;
  parameters.show(all);
}

// What the page asks of the server

function want() {
  const confidence = ($("confidence").checked || shared.view === "confidence") && anyConfidence();
  send({ want: { confidence, label: shared.source, index, paused: !playing || document.hidden } });
  asked = index;
}

function go(to) {
  if (!times) return;
  index = Math.min(times.length - 1, Math.max(0, to));
  showMoment();
  if (asked !== index) want();
}

function arrived(at) {
  if (!playing || state.live || !times || at !== index || document.hidden) return;
  if (index >= times.length - 1) return play(false);
  playedFrom ??= { time: performance.now(), at: times[index] };
  // The newest moment that is due; at least the next one.
  const due = playedFrom.at + performance.now() - playedFrom.time;
  let next = index + 1;
  while (next < times.length - 1 && times[next + 1] <= due) next++;
  setTimeout(() => playing && at === index && go(next), Math.max(0, times[next] - due));
}

function play(on) {
  if (on && times && index >= times.length - 1 && times.length > 1 && !playing) index = 0;
  playing = on;
  playedFrom = null;
  $("play").classList.toggle("playing", on);
  $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  asked = -1;
  if (times) showMoment();
}

function toggle() {
  play(!playing);
  want();
}

function step(by) {
  if (!times) return;
  play(false);
  go(index + by);
}

function showMoment() {
  const seconds = (ms) => (ms / 1000).toFixed(times.at(-1) < 100_000 ? 2 : 1);
  $("seek").value = index;
  $("moment").value = `${index + 1} / ${times.length} · ${seconds(times[index])} s`;
  $("seek").setAttribute("aria-valuetext", `frame ${index + 1} of ${times.length}, ${seconds(times[index])} seconds`);
}

// Controls

function view(name) {
  const radio = document.querySelector(`[name="view"][value="${name}"]`);
  if (radio.disabled) return;
  radio.checked = true;
  const before = shared.view;
  shared.view = name;
  $("alpha-row").classList.toggle("off", name !== "overlay");
  draw();
  if ((before === "confidence") !== (name === "confidence")) want();
}

function draw() {
  for (const camera of cameras.values()) camera.draw();
}

function mix() {
  for (const camera of cameras.values()) camera.mix();
  for (const button of $("legend").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", !shared.hidden.has(button.dataset.name));
  }
}

function classes() {
  const found = new Map();
  for (const { legend } of cameras.values()) for (const one of legend?.classes ?? []) found.set(one.name, one);
  return [...found.values()];
}

function showLegend() {
  $("classes").hidden = !classes().length;
  $("legend").replaceChildren(
    ...classes().map(({ name, colour }) => {
      const item = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.dataset.name = button.title = name;
      button.setAttribute("aria-pressed", !shared.hidden.has(name));
      button.innerHTML = '<span class="swatch"></span><span class="name"></span><span class="share"></span>';
      button.querySelector(".swatch").style.background = `rgb(${colour})`;
      button.querySelector(".name").textContent = name;
      button.addEventListener("click", (event) => switchClass(name, event.shiftKey));
      item.append(button);
      return item;
    }),
  );
  showShares();
}

function switchClass(name, alone) {
  const { hidden } = shared;
  if (alone) {
    hidden.clear();
    for (const one of classes()) if (one.name !== name) hidden.add(one.name);
  } else if (!hidden.delete(name)) hidden.add(name);
  mix();
}

function showShares() {
  const many = Math.max(1, [...cameras.values()].filter((camera) => camera.label).length);
  for (const button of $("legend").querySelectorAll("button")) {
    let share = 0;
    for (const camera of cameras.values()) share += (camera.shares.get(button.dataset.name) ?? 0) / many;
    button.classList.toggle("absent", !share);
    button.querySelector(".share").textContent = !share ? "" : share < 0.01 ? "<1 %" : `${Math.round(share * 100)} %`;
  }
}

function showSources() {
  const topics = state.cameras.reduce((most, { labels }) => (labels.length > most.length ? labels : most), []);
  shared.source = Math.min(shared.source, Math.max(0, topics.length - 1));
  $("source-row").hidden = topics.length < 2;
  $("source").replaceChildren(...topics.map((topic, number) => new Option(topic, number)));
  $("source").value = shared.source;
}

for (const radio of document.querySelectorAll('[name="view"]')) {
  radio.addEventListener("change", () => view(radio.value));
}
$("alpha").addEventListener("input", () => {
  shared.alpha = Number($("alpha").value);
  $("alpha-value").value = `${Math.round(shared.alpha * 100)} %`;
  draw();
});
$("confidence").addEventListener("change", want);
$("source").addEventListener("change", () => {
  shared.source = Number($("source").value);
  showLegend();
  want();
});
$("all").addEventListener("click", () => {
  shared.hidden.clear();
  mix();
});
$("none").addEventListener("click", () => {
  for (const { name } of classes()) shared.hidden.add(name);
  mix();
});
$("play").addEventListener("click", toggle);
$("back").addEventListener("click", () => step(-1));
$("forth").addEventListener("click", () => step(1));
$("seek").addEventListener("input", () => {
  playedFrom = null;
  go(Number($("seek").value));
});
document.addEventListener("visibilitychange", () => {
  playedFrom = null;
  asked = -1;
  want();
});
document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  // A control keeps the keys that are its own.
  if (target.closest("select, input:not([type=radio])")) return;
  if (target.closest("button, summary") && key === " ") return;
  if (target.closest("[type=radio]") && key.startsWith("Arrow")) return;
  if (key === " ") toggle();
  else if (key === "ArrowLeft") step(-1);
  else if (key === "ArrowRight") step(1);
  else if (key === "Home") step(-index);
  else if (key === "End") step(times?.length ?? 0);
  else if (VIEWS[key - 1]) view(VIEWS[key - 1]);
  else return;
  event.preventDefault();
});

connect();
