// Candidates as items of `/v1/rewards`: from boxes, or from lines of JSON.
//
// A candidate is `{item, name, text, place}`: what is sent, what is shown of it, and where it was written.

import { letter } from "./text.js";

/** A line that is no candidate. */
export class WrongLine extends Error {}

/** A candidate of each box with a text, named as the box is. */
export function ofBoxes(prompt, boxes) {
  const candidate = (box, index) => ({
    item: { prompt, response: box.value },
    name: letter(index),
    text: box.value,
    place: box,
  });
  return boxes.map(candidate).filter(({ text }) => text.trim() !== "");
}

/** The candidates of each line; a place is the line's number. */
export function ofLines(prompt, lines) {
  const all = lines.split("\n").flatMap((line, index) => {
    if (line.trim() === "") return [];
    const place = index + 1;
    return items(parsed(line, place), prompt, place).map((item) => ({ item, text: shown(item), place }));
  });
  return all.map((candidate, index) => ({ ...candidate, name: letter(index) }));
}

function parsed(line, place) {
  try {
    return JSON.parse(line);
  } catch {
    throw new WrongLine(`line ${place}: not JSON`);
  }
}

function items(value, prompt, place) {
  if (typeof value === "string") return [{ prompt: own(prompt, place), response: value }];
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new WrongLine(`line ${place}: neither a string nor an object`);
  }
  const { responses, ...rest } = value;
  if (Array.isArray(responses)) {
    const shared = rest.prompt ?? own(prompt, place);
    return responses.map((response) => ({ prompt: shared, response }));
  }
  if ("response" in value && !("prompt" in value)) return [{ ...value, prompt: own(prompt, place) }];
  return [value];
}

function own(prompt, place) {
  if (prompt.trim() === "") throw new WrongLine(`line ${place}: has no prompt, and there is none above`);
  return prompt;
}

function shown(item) {
  const last = Array.isArray(item.messages) ? item.messages.at(-1)?.content : undefined;
  const text = item.response ?? last ?? item.text ?? item.input_ids;
  const words = typeof text === "string" ? text : JSON.stringify(text ?? item);
  return item.id === undefined ? words : `${item.id}: ${words}`;
}

/** The prompt that all candidates answer; null where they do not. */
export function sharedPrompt(candidates) {
  const prompts = new Set(candidates.map(({ item }) => JSON.stringify([item.prompt ?? null, "response" in item])));
  const [first] = candidates;
  return prompts.size === 1 && "response" in first.item ? (first.item.prompt ?? null) : null;
}
