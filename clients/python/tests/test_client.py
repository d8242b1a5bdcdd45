"""Against a running service: REWARDEN_URL, by default that of the README.

What administrators do is tested with REWARDEN_ADMIN_KEY, a key of that role, on a service of the embedded model whose
`--adapter-root` is the folder `models`.
"""
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
        rewards = self.client.rewards(iter(self.items))
        self.assertEqual([r.index for r in rewards], [0, 1, 2])
        self.assertEqual([r.id for r in rewards], ["0", "1", "2"])
        for reward in rewards:
            self.assertAlmostEqual(reward.score, reward.mean - reward.std, places=6)
            self.assertAlmostEqual(reward.std, math.sqrt(reward.variance), places=6)

    def test_a_penalty_is_the_callers(self):
        plain = self.client.rewards(self.items, penalty=Penalty("none"))
        self.assertTrue(all(r.variance is None and r.score == r.mean for r in plain))
        hard = self.client.rewards(self.items, penalty=Penalty("variance", 0.5))
        for reward in hard:
            self.assertAlmostEqual(reward.score, reward.mean - 0.5 * reward.variance, places=4)

    def test_two_answers_are_compared(self):
        compared = self.client.compare(PROMPT, ANSWERS[0], [{"role": "assistant", "content": ANSWERS[1]}])
        a, b = self.client.rewards(self.items[:2])
        self.assertAlmostEqual(compared.mean_difference, a.mean - b.mean, places=3)
        v = a.variance + b.variance - 2 * compared.covariance
        self.assertAlmostEqual(compared.variance_difference, v, delta=1e-3 * (a.variance + b.variance))
        logit = compared.mean_difference / math.sqrt(1 + math.pi * compared.variance_difference / 8)
        self.assertAlmostEqual(compared.preference_probability, 1 / (1 + math.exp(-logit)), places=6)
        self.assertAlmostEqual(compared.a.std, a.std, places=3)

    def test_the_best_of_several_is_that_of_their_scores(self):
        scores = [r.score for r in self.client.rewards(self.items)]
        choice = self.client.best_of_n(PROMPT, ANSWERS)
        self.assertEqual(choice.best, max(range(3), key=scores.__getitem__))
        self.assertEqual(choice.ranking[0].index, choice.best)
        self.assertAlmostEqual(choice.ranking[0].score, max(scores), places=3)
        everything = self.client.best_of_n(PROMPT, ANSWERS, report="all", seed=7, penalty=Penalty("std", 1.0, relative=True))
        self.assertAlmostEqual(sum(r.probability_best for r in everything.ranking), 1, places=9)
        self.assertEqual((len(everything.covariance), everything.variances_computed), (3, 3))
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


if __name__ == "__main__":
    unittest.main()
