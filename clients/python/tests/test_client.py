"""Against a running service: REWARDEN_URL, by default that of the README. `Retries` and `Forms` bring a server of their own.

What administrators do is tested with REWARDEN_ADMIN_KEY, a key of that role, on a service of the embedded model whose
`--adapter-root` is the folder `models`.
"""
import json
import math
import os
import sys
import threading
import unittest
from http.server import BaseHTTPRequestHandler, HTTPServer

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "src"))
from rewarden import Client, Overloaded, Penalty, RewardenError  # noqa: E402
from rewarden.rewardbench import Pipeline, config  # noqa: E402
from rewarden.trl import reward_func  # noqa: E402

URL = os.environ.get("REWARDEN_URL", "http://127.0.0.1:8080")
KEY = os.environ.get("REWARDEN_ADMIN_KEY")
PROMPT, ANSWERS = "What is the capital of France?", ["Paris.", "qw zx opp blib", "I do not know."]


class AgainstTheService(unittest.TestCase):
    def setUp(self):
        self.client = Client(URL, batch_size=2, api_key=KEY)
        self.items = [{"id": str(i), "prompt": PROMPT, "response": answer} for i, answer in enumerate(ANSWERS)]

    def test_rewards_come_in_the_order_of_the_items(self):
        self.assertTrue(self.client.ready())
        rewards = self.client.rewards(iter(self.items), penalty=Penalty("std"))
        self.assertEqual([r.index for r in rewards], [0, 1, 2])
        self.assertEqual([r.id for r in rewards], ["0", "1", "2"])
        for reward in rewards:
            self.assertAlmostEqual(reward.score, reward.mean - reward.std, places=6)
            self.assertAlmostEqual(reward.std, math.sqrt(reward.variance), places=6)
            self.assertTrue(0 <= reward.contraction <= 1)
            self.assertEqual(reward.penalty, Penalty("std", 1.0))

    def test_a_penalty_is_the_callers(self):
        plain = self.client.rewards(self.items, penalty=Penalty("none"))
        self.assertTrue(all(r.variance is None and r.score == r.mean for r in plain))
        hard = self.client.rewards(self.items, penalty=Penalty("variance", 0.5))
        for reward in hard:
            self.assertAlmostEqual(reward.score, reward.mean - 0.5 * reward.variance, places=4)
        for reward in self.client.rewards(self.items, penalty=Penalty("kl", beta=2.0)):
            self.assertAlmostEqual(reward.score, reward.mean - reward.variance / 4, places=4)
        for reward in self.client.rewards(self.items, penalty=Penalty("shrink", baseline=-3.0)):
            self.assertAlmostEqual(reward.score, -3 + reward.contraction * (reward.mean + 3), places=6)
            self.assertEqual(reward.penalty, Penalty("shrink", baseline=-3.0))
        with self.assertRaises(RewardenError) as raised:
            self.client.rewards(self.items, penalty=Penalty("kl"))
        self.assertEqual((raised.exception.status, raised.exception.param), (422, "penalty.beta"))

    def test_two_answers_are_compared(self):
        compared = self.client.compare(PROMPT, ANSWERS[0], [{"role": "assistant", "content": ANSWERS[1]}])
        a, b = self.client.rewards(self.items[:2])
        self.assertAlmostEqual(compared.mean_difference, a.mean - b.mean, places=3)
        v = a.variance + b.variance - 2 * compared.covariance
        self.assertAlmostEqual(compared.variance_difference, v, delta=1e-3 * (a.variance + b.variance))
        logit = compared.mean_difference / math.sqrt(1 + math.pi * compared.variance_difference / 8)
        self.assertAlmostEqual(compared.preference_probability, 1 / (1 + math.exp(-logit)), places=6)
        self.assertAlmostEqual(compared.a.std, a.std, places=3)
        self.assertTrue(0 <= compared.contraction_difference <= 1)
        self.assertEqual(compared.penalty, a.penalty)

    def test_the_best_of_several_is_that_of_their_scores(self):
        scores = [r.score for r in self.client.rewards(self.items)]
        choice = self.client.best_of_n(PROMPT, ANSWERS)
        self.assertEqual(choice.best, max(range(3), key=scores.__getitem__))
        self.assertEqual(choice.ranking[0].index, choice.best)
        self.assertAlmostEqual(choice.ranking[0].score, max(scores), places=3)
        everything = self.client.best_of_n(PROMPT, ANSWERS, report="all", seed=7, penalty=Penalty("std", 1.0, relative=True))
        self.assertAlmostEqual(sum(r.probability_best for r in everything.ranking), 1, places=9)
        self.assertEqual((len(everything.covariance), everything.variances_computed), (3, 3))
        self.assertTrue(all(0 <= r.contraction <= 1 and 0 <= r.contraction_relative <= 1 for r in everything.ranking))
        self.assertEqual(everything.penalty, Penalty("std", 1.0, relative=True))
        again = self.client.best_of_n(PROMPT, ANSWERS, seed=7, top=1)
        self.assertEqual((again.thompson, len(again.ranking)), (everything.thompson, 1))

    def test_what_is_wrong_is_named(self):
        with self.assertRaises(RewardenError) as raised:
            self.client.rewards([{"prompt": "x", "respons": "y"}])
        self.assertEqual(raised.exception.status, 422)
        self.assertIn("items[0]", raised.exception.param)
        with self.assertRaises(RewardenError) as raised:
            self.client.rewards(self.items, model="nowhere")
        self.assertEqual(raised.exception.status, 404)

    def test_trainers_and_benchmarks_get_the_same_scores(self):
        want = [r.score for r in self.client.rewards(self.items)]
        turns = [[{"role": "user", "content": PROMPT}]] * 3
        answers = [[{"role": "assistant", "content": answer}] for answer in ANSWERS]
        for prompts, completions in [([PROMPT] * 3, ANSWERS), (turns, answers), (turns, ANSWERS)]:
            got = reward_func(self.client)(prompts=prompts, completions=completions, completion_ids=None)
            for a, b in zip(got, want):
                self.assertAlmostEqual(a, b, places=3)
        entry = config(self.client)
        model = entry["model_builder"]("judge", device_map="auto", revision=None)
        built = entry["pipeline_builder"]("text-classification", model=model, tokenizer="its tokenizer")
        self.assertEqual((built.model, built.tokenizer), (model, "its tokenizer"))
        for pipeline in (Pipeline(self.client), built):
            got = pipeline([[*turn, *answer] for turn, answer in zip(turns, answers)], batch_size=8, truncation=True)
            for a, b in zip(list(got), want):
                self.assertAlmostEqual(float(a), b, places=3)

    def test_models_are_listed(self):
        self.assertTrue(any(model["id"] for model in self.client.models()))

    @unittest.skipUnless(KEY, "REWARDEN_ADMIN_KEY is not set")
    def test_an_adapter_comes_is_replaced_and_goes(self):
        by_default = self.client.rewards(self.items[:1])
        fingerprint = self.client.load_adapter("second", "default")
        self.assertEqual(self.client.rewards(self.items[:1], model="second"), by_default, "the same files")
        self.assertEqual(by_default[0].model, fingerprint)
        with self.assertRaises(RewardenError) as raised:
            self.client.load_adapter("second", "default", replace=True, expected="0" * 16)
        self.assertEqual(raised.exception.status, 412)
        self.client.load_adapter("second", "default", replace=True, expected=fingerprint)
        self.assertEqual(self.client.unload_adapter("second", expected=fingerprint), fingerprint)
        self.assertNotIn("second", [model["id"] for model in self.client.models()])


class Flaky(BaseHTTPRequestHandler):
    """Is overloaded for a while."""

    refusals = 0

    def do_GET(self):
        if Flaky.refusals > 0:
            Flaky.refusals -= 1
            self.send_response(503)
            self.send_header("retry-after", "0")
            body = b'{"error": {"message": "full", "param": null, "code": "overloaded"}}'
        else:
            self.send_response(200)
            body = b'{"data": []}'
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Retries(unittest.TestCase):
    def setUp(self):
        self.server = HTTPServer(("127.0.0.1", 0), Flaky)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def tearDown(self):
        self.server.shutdown()
        self.server.server_close()

    def test_an_overloaded_service_is_asked_again(self):
        Flaky.refusals = 1
        self.assertEqual(Client(self.url).models(), [])

    def test_not_for_ever(self):
        Flaky.refusals = 9
        with self.assertRaises(Overloaded) as raised:
            Client(self.url, retries=0).models()
        self.assertEqual((raised.exception.message, raised.exception.code), ("full", "overloaded"))


REWARD = {"index": 0, "id": None, "mean": 1.0, "variance": 4.0, "std": 2.0, "contraction": 0.75, "score": -1.0, "novelty": 0.4,
          "variance_percentile": 0.6, "novel": False, "tokens": 3, "truncated": False}
APPLIED = {"kind": "contraction", "k": 8.0}
REPLIES = {
    "/v1/rewards": {"data": [REWARD], "penalty": APPLIED},
    "/v1/compare": {"mean_difference": 0.5, "variance_difference": 1.0, "contraction_difference": 0.25, "covariance": 3.0,
                    "preference_probability": 0.6, "a": REWARD, "b": {**REWARD, "index": 1}, "penalty": APPLIED},
    "/v1/best-of-n": {"best": 0, "ranking": [{**REWARD, "contraction_relative": 0.5, "probability_best": 1.0, "expected_regret": 0.0}],
                      "variances_computed": 1, "penalty": APPLIED},
}


def without_contraction(value):
    """Returns a reply as services of before contraction gave it."""
    if isinstance(value, list):
        return [without_contraction(element) for element in value]
    if not isinstance(value, dict):
        return value
    newer = ("contraction", "contraction_difference", "contraction_relative", "variance_percentile", "penalty")
    return {name: without_contraction(field) for name, field in value.items() if name not in newer}


class Scripted(BaseHTTPRequestHandler):
    """Gives the same replies again and again, and keeps what it was sent."""

    bodies: list = []
    older = False

    def do_POST(self):
        Scripted.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        reply = REPLIES[self.path]
        if Scripted.older:
            reply = without_contraction(reply)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_):
        pass


class Forms(unittest.TestCase):
    """What is sent, and what is read of replies."""

    def setUp(self):
        self.server = HTTPServer(("127.0.0.1", 0), Scripted)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.client = Client(f"http://127.0.0.1:{self.server.server_port}")
        Scripted.bodies, Scripted.older = [], False

    def tearDown(self):
        self.server.shutdown()
        self.server.server_close()

    def answers(self):
        """A reward, a comparison and a choice."""
        return (self.client.rewards([{"text": "x"}])[0], self.client.compare(PROMPT, "a", "b"),
                self.client.best_of_n(PROMPT, ["a"], report="all"))

    def test_a_penalty_has_the_numbers_that_are_given(self):
        for penalty, want in [
            (None, None),
            (Penalty("none"), {"kind": "none"}),
            (Penalty(), {"kind": "std"}),
            (Penalty("std", 2.0, relative=True), {"kind": "std", "k": 2.0, "relative": True}),
            (Penalty("variance", 0.0, above=0.9), {"kind": "variance", "k": 0.0, "above": 0.9}),
            (Penalty("contraction"), {"kind": "contraction"}),
            (Penalty("shrink", baseline=-2.5), {"kind": "shrink", "baseline": -2.5}),
            (Penalty("kl", beta=0.1), {"kind": "kl", "beta": 0.1}),
        ]:
            self.client.rewards([{"text": "x"}], penalty=penalty)
            self.assertEqual(Scripted.bodies[-1].get("penalty"), want)

    def test_replies_have_contractions_and_the_penalty(self):
        reward, compared, choice = self.answers()
        applied = Penalty("contraction", 8.0)
        self.assertEqual((reward.contraction, reward.novelty, reward.variance_percentile, reward.penalty), (0.75, 0.4, 0.6, applied))
        self.assertEqual((compared.contraction_difference, compared.b.contraction, compared.penalty), (0.25, 0.75, applied))
        self.assertEqual(compared.a.penalty, applied)
        ranked = choice.ranking[0]
        self.assertEqual((ranked.contraction, ranked.contraction_relative, choice.penalty), (0.75, 0.5, applied))

    def test_an_older_service_has_none_of_them(self):
        Scripted.older = True
        reward, compared, choice = self.answers()
        self.assertEqual((reward.mean, reward.contraction, reward.variance_percentile, reward.penalty), (1.0, None, None, None))
        self.assertEqual((compared.mean_difference, compared.contraction_difference, compared.penalty), (0.5, None, None))
        self.assertEqual((choice.ranking[0].contraction_relative, choice.penalty), (None, None))


if __name__ == "__main__":
    unittest.main()
