// The page: what is typed is scored after a pause, and shown unless something newer has been typed.

import { draw } from "./chart.js";
import { Form, WrongField } from "./form.js";
import { Preferences } from "./preferences.js";
import { Refused, Server, curl } from "./server.js";
import { showContractions, showPreferences, showRanking, showTimings } from "./tables.js";
import { element, formula, plural } from "./text.js";

/** Milliseconds without a key pressed, after which is scored. */
const PAUSE = 500;

const EXAMPLE = {
  prompt: "Why is the sky blue?",
  answers: [
    "Air scatters short waves of light more than long ones, so blue light reaches us from everywhere.",
    "The sky is blue because it reflects the ocean.",
    "Wow, what a wonderful, wonderful question! The sky is blue, blue, blue, and that is wonderful!",
  ],
};

const $ = (id) => document.getElementById(id);
const server = new Server();
const preferences = new Preferences(server);
let timer;
/** The latest attempt to score; an older one has nothing more to show. */
let latest = new AbortController();
let ranked = [];
const form = new Form(soon);

function soon() {
  if ($("live").checked) after(PAUSE, score);
}

function after(milliseconds, task) {
  clearTimeout(timer);
  timer = setTimeout(task, milliseconds);
}

async function score() {
  clearTimeout(timer);
  latest.abort();
  const { signal } = (latest = new AbortController());
  let candidates = [];
  busy(true);
  try {
    form.clear();
    $("problem").textContent = "";
    candidates = form.candidates();
    if (candidates.length === 0) return empty();
    await scored(candidates, form.options(), signal);
  } catch (error) {
    if (!signal.aborted) failed(error, candidates);
  } finally {
    if (!signal.aborted) busy(false);
  }
}

async function scored(candidates, options, signal) {
  const body = { ...options, items: candidates.map(({ item }) => item) };
  const count = plural(candidates.length, "candidate", "candidates");
  say(`Scoring ${count} …`);
  const start = performance.now();
  const { data, penalty } = await server.post("v1/rewards", body, candidates.length, signal);
  signal.throwIfAborted();
  show(candidates, data, body, penalty);
  say(`${count} scored in ${Math.round(performance.now() - start)} ms.`);
  if (data.length < 2) return;
  prefer(Preferences.ofEach(data, "Until the server has compared them"));
  const compared = await preferences.of(candidates, options, data, signal);
  signal.throwIfAborted();
  prefer(compared);
}

function show(candidates, rewards, body, penalty) {
  const rows = rewards.map((reward) => ({ ...reward, ...candidates[reward.index] }));
  ranked = rows.sort((a, b) => b.score - a.score);
  $("intro").hidden = true;
  $("shown").hidden = false;
  $("shown").classList.remove("old");
  $("preferences").hidden = ranked.length < 2;
  $("verdict").replaceChildren(...verdict(ranked));
  // Older servers do not echo the penalty.
  $("applied").textContent = penalty === undefined ? "" : formula(penalty);
  $("bar-key").hidden = ranked[0].std === null;
  $("chart").setAttribute("aria-label", `Rewards with error bars, the best first: ${names(ranked)}`);
  showRanking($("ranking").tBodies[0], ranked);
  $("curl").textContent = curl("v1/rewards", body, server.key !== "");
  draw($("chart"), ranked);
}

function names(rows) {
  return rows.map(({ name }) => name).join(", ");
}

/** Who is best, and whether the mean alone would say the same. */
function verdict([best, ...others]) {
  const bold = ({ name }) => element("b", {}, name);
  if (others.length === 0) return [bold(best), " stands alone: a reward means most beside another’s."];
  if (best.std === null) return [bold(best), " leads by the mean; this model does not say how sure it is."];
  const boldest = others.reduce((a, b) => (b.mean > a.mean ? b : a), best);
  if (boldest === best) return [bold(best), " leads, by the conservative score and by the mean."];
  return [bold(best), " leads by the conservative score. By the mean alone it would be ", bold(boldest), ", whose penalty is larger."];
}

function prefer({ probability, contraction, source }) {
  $("source").textContent = source;
  showPreferences($("matrix"), ranked, probability);
  $("differences").hidden = contraction === null;
  if (contraction !== null) showContractions($("contractions"), ranked, contraction);
}

function empty() {
  $("intro").hidden = false;
  $("shown").hidden = true;
  say(form.prompt.trim() === "" && !form.byLine ? "Write a prompt and a candidate." : "Write a candidate.");
}

/** Says what went wrong, at its field where it has one, and tries again where that helps. */
function failed(error, candidates) {
  if (!(error instanceof Refused || error instanceof WrongField)) throw error;
  say($("shown").hidden ? "Not scored." : "Not scored; what is shown is older.");
  $("shown").classList.add("old");
  if (form.blame(error, candidates)) return;
  const again = error.retryAfter ?? null;
  $("problem").textContent = again === null ? error.message : `${error.message}; trying again in ${again} s`;
  if (again !== null) after(1000 * again, score);
}

function say(text) {
  $("status").textContent = text;
}

function busy(is) {
  $("results").setAttribute("aria-busy", String(is));
  $("timings").hidden = server.timings.length === 0;
  showTimings($("requests").tBodies[0], server.timings);
}

async function models() {
  server.key = $("key").value;
  try {
    form.models = await server.models();
  } catch (error) {
    return failed(error, []);
  }
  await score();
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    say("Copied.");
  } catch {
    // Browsers hand out the clipboard to secure origins only.
    getSelection().selectAllChildren($("curl"));
    say("Selected: press Ctrl+C to copy.");
  }
}

$("form").addEventListener("input", ({ target }) => {
  form.settle();
  if (target === $("key")) after(PAUSE, models);
  else soon();
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  score();
});
$("form").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  score();
});
$("example").addEventListener("click", () => {
  form.fill(EXAMPLE.prompt, EXAMPLE.answers);
  $("prompt").focus();
  score();
});
$("copy").addEventListener("click", copy);
new ResizeObserver(() => ranked.length && draw($("chart"), ranked)).observe($("chart").parentElement);
models();
