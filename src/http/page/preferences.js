// How probable it is that one candidate is preferred to another.

import { sharedPrompt } from "./candidates.js";
import { Refused } from "./server.js";

/** What the matrices show, and what they rest on: `{probability, contraction, source}`; an unknown `contraction` is null. */
export class Preferences {
  /** Whether the server may have `/v1/compare`. */
  #compares = true;

  constructor(server) {
    this.server = server;
  }

  /** What can be said at once, from mean and variance of each. */
  static ofEach(rewards, why) {
    const known = rewards.every(({ variance }) => variance !== null);
    const source = known
      ? `${why}: variances are taken as independent here, and what the candidates share counts twice.`
      : "This model has no variances: by the means alone.";
    return { probability: rewards.map((a) => rewards.map((b) => preferred(a, b))), contraction: null, source };
  }

  /** By the joint posterior, where the server compares; or else from each. */
  async of(candidates, { model, truncation }, rewards, signal) {
    const prompt = sharedPrompt(candidates);
    if (prompt === null) return Preferences.ofEach(rewards, "These do not answer one prompt");
    if (!this.#compares) return Preferences.ofEach(rewards, "This server has no /v1/compare");
    const body = { model, truncation, prompt, responses: candidates.map(({ item }) => item.response) };
    try {
      const reply = await this.server.post("v1/compare", body, candidates.length, signal);
      const { preference_probability: probability, contraction_difference: contraction = null } = reply;
      return { probability, contraction, source: "By the joint posterior, covariances included." };
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      // The model is known by now, so it is the path that is not.
      this.#compares = error.status !== 404;
      const why = this.#compares ? `/v1/compare said “${error.message}”` : "This server has no /v1/compare";
      return Preferences.ofEach(rewards, why);
    }
  }
}

/** The posterior predictive of Bradley and Terry, by MacKay's approximation; the server's own formula. */
function preferred(a, b) {
  const variance = (a.variance ?? 0) + (b.variance ?? 0);
  return 1 / (1 + Math.exp((b.mean - a.mean) / Math.sqrt(1 + (Math.PI * variance) / 8)));
}
