"use strict";

const ROWS = 200; // as many as the collector sends at once
const PAUSE = 500; // milliseconds between two polls
const PATIENCE = 10_000; // milliseconds until a poll has failed
const RATE_SECONDS = 5;
const CHART = { seconds: 60, height: 20 };
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const rows = byId("entries");
let run = null; // which run of the collector the rows are from
let newest = 0; // the number of the newest entry that was looked at
let total = 0;
let wanted = "";
let paused = false;
let stale = true; // the rows are to be fetched, paused or not

const bars = Array.from({ length: CHART.seconds }, (_, at) => {
  const bar = document.createElementNS(SVG, "rect");
  bar.setAttribute("x", at + 0.1);
  bar.setAttribute("width", 0.8);
  byId("chart").append(bar);
  return bar;
});

function inWords(number, digits = 0) {
  return number.toLocaleString("en-US", { maximumFractionDigits: digits });
}

function showFigures(view) {
  total = view.total;
  const last = view.rates.slice(-RATE_SECONDS);
  const rate = last.reduce((sum, one) => sum + one, 0) / RATE_SECONDS;
  const peak = Math.max(...view.rates);
  byId("rate").textContent = inWords(rate, rate < 10 ? 1 : 0);
  byId("peak").textContent = inWords(peak);
  byId("total").textContent = inWords(total);
  byId("posts").textContent = inWords(view.posts);
  byId("mean").textContent = view.posts ? inWords(total / view.posts, 1) : "–";
  byId("kept").textContent = inWords(view.kept);
  bars.forEach((bar, at) => {
    const height = peak ? (CHART.height * view.rates[at]) / peak : 0;
    bar.setAttribute("y", CHART.height - height);
    bar.setAttribute("height", height);
  });
}

function clockTime(milliseconds) {
  const time = new Date(milliseconds);
  const two = (number) => String(number).padStart(2, "0");
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()].map(two);
  return `${clock.join(":")}.${String(time.getMilliseconds()).padStart(3, "0")}`;
}

// What was posted becomes text, and never markup.
function makeRow(entry) {
  const row = byId("row").content.firstElementChild.cloneNode(true);
  const [time, post, path, code] = row.children;
  time.textContent = clockTime(entry.time);
  time.dateTime = new Date(entry.time).toISOString();
  post.textContent = `post ${inWords(entry.post)}`;
  path.textContent = entry.path;
  code.textContent = entry.text;
  if (entry.left_out) {
    const cut = document.createElement("span");
    cut.className = "cut";
    cut.textContent = ` … ${inWords(entry.left_out)} bytes more`;
    code.append(cut);
  }
  row.dataset.post = entry.post;
  return row;
}

function showRows(entries) {
  rows.prepend(...entries.map(makeRow));
  while (rows.childElementCount > ROWS) rows.lastElementChild.remove();
  // A post is named in its first row alone.
  let before = null;
  for (const row of rows.children) {
    row.classList.toggle("same", row.dataset.post === before);
    before = row.dataset.post;
  }
}

function showState() {
  const behind = total - newest;
  byId("pause").textContent = paused ? "Go on" : "Pause";
  byId("example").hidden = total > 0;
  byId("none").hidden = total === 0 || rows.childElementCount > 0 || stale;
  const state = byId("state");
  state.className = paused ? "" : "live";
  if (!paused) state.textContent = "live";
  else state.textContent = behind > 0 ? `paused, ${inWords(behind)} new` : "paused";
}

function beginAnew() {
  newest = 0;
  stale = true;
  rows.replaceChildren();
}

async function poll() {
  const asked = { wanted, paused };
  const moving = stale || !paused;
  const after = moving ? newest : Number.MAX_SAFE_INTEGER;
  const query = new URLSearchParams({ after, contains: wanted });
  const answer = await fetch(`/entries?${query}`, {
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE),
  });
  if (!answer.ok) throw new Error(await answer.text());
  const view = await answer.json();
  // Meanwhile the reader may have asked for something else.
  if (asked.wanted !== wanted || asked.paused !== paused) return poll();
  const known = run;
  run = view.run;
  if (known !== null && known !== run) {
    beginAnew();
    return poll();
  }
  showFigures(view);
  if (moving) {
    stale = false;
    newest = view.total;
    showRows(view.entries);
  }
  showState();
}

let timer = null;
let polling = false;

async function go() {
  clearTimeout(timer);
  if (polling) return; // it looks again by itself
  polling = true;
  try {
    await poll();
  } catch (error) {
    const state = byId("state");
    state.className = "bad";
    state.textContent = "no answer; trying again";
    console.warn(error);
  } finally {
    polling = false;
    timer = setTimeout(go, PAUSE);
  }
}

byId("filter").addEventListener("input", (event) => {
  wanted = event.target.value;
  beginAnew();
  go();
});
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", paused);
  showState();
  go();
});
byId("tools").addEventListener("submit", (event) => event.preventDefault());
for (const place of document.querySelectorAll(".address")) {
  place.textContent = `${location.origin}/`;
}
go();
