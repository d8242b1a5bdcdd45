// What is shown as tables: the ranking, the preferences, the requests.

import { element, number, snippet } from "./text.js";

/** Fills the body of the ranking's table. */
export function showRanking(body, ranked) {
  body.replaceChildren(
    ...ranked.map(({ name, text, mean, std, contraction, score, novelty, novel, tokens, truncated }, rank) =>
      element(
        "tr",
        {},
        cell(rank + 1),
        element("th", { scope: "row" }, element("b", {}, name), " ", words(text)),
        cell(number(score)),
        cell(number(mean)),
        cell(number(std)),
        cell(number(contraction)),
        noveltyCell(novelty, novel),
        cell(truncated ? `${tokens}, cut` : tokens),
      ),
    ),
  );
}

/** The start of a candidate, where there is room. */
function words(text) {
  return element("span", { class: "words" }, snippet(text, 48));
}

function noveltyCell(novelty, novel) {
  const mark = novel ? element("span", { class: "novel" }, "unusual") : null;
  return element("td", { class: "number" }, mark, " ", number(novelty));
}

/** Fills the matrix of preferences, in the order of the ranking. */
export function showPreferences(table, ranked, probability) {
  showMatrix(table, ranked, (row, column) => preference(probability[row][column]));
}

/** Fills the matrix of the contractions of differences, in the order of the ranking. */
export function showContractions(table, ranked, contraction) {
  showMatrix(table, ranked, (row, column) => element("td", {}, number(contraction[row][column])));
}

/** Fills a matrix: `cellOf(row, column)` makes the cells off the diagonal. */
function showMatrix(table, ranked, cellOf) {
  const heading = ({ name }) => element("th", { scope: "col" }, name);
  const at = (row, column) => (row === column ? element("td", { class: "self" }, "–") : cellOf(row, column));
  const [head, body] = [table.tHead, table.tBodies[0]];
  head.replaceChildren(element("tr", {}, element("td"), ...ranked.map(heading)));
  body.replaceChildren(
    ...ranked.map(({ name, index: row }) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, name),
        ...ranked.map(({ index: column }) => at(row, column)),
      ),
    ),
  );
}

function preference(share) {
  const shown = element("td", { class: share < 0.5 ? "less" : "more" }, String(Math.round(100 * share)));
  shown.style.setProperty("--strength", `${Math.round(Math.abs(share - 0.5) * 120)}%`);
  return shown;
}

/** Fills the table of requests with the latest. */
export function showTimings(body, timings) {
  body.replaceChildren(
    ...timings.slice(0, 10).map(({ at, path, status, candidates, tokens, milliseconds }) =>
      element(
        "tr",
        {},
        element("td", {}, at.toLocaleTimeString([], { hour12: false })),
        element("td", {}, element("code", {}, path)),
        cell(status),
        cell(candidates),
        cell(tokens ?? "–"),
        cell(Math.round(milliseconds)),
        cell(tokens === null ? "–" : Math.round((1000 * tokens) / milliseconds)),
      ),
    ),
  );
}

function cell(value) {
  return element("td", { class: "number" }, String(value));
}
