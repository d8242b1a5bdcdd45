//! Tasks to write a program, and the programs.

/// Prompt and answer, each in a programming language of its own.
pub(super) const TEXTS: [(&str, &str); 12] = [
    (
        "Write a Python function that counts the words of a text.",
        r#"from collections import Counter

def count_words(text: str) -> Counter[str]:
    return Counter(text.lower().split())"#,
    ),
    (
        "Write a Rust function that finds the largest even number of a slice.",
        r#"fn largest_even(numbers: &[i64]) -> Option<i64> {
    numbers.iter().copied().filter(|number| number % 2 == 0).max()
}"#,
    ),
    (
        "Write a C function that reverses a string in place.",
        r#"#include <string.h>

void reverse(char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i < n / 2; i++) {
        char other = text[n - 1 - i];
        text[n - 1 - i] = text[i];
        text[i] = other;
    }
}"#,
    ),
    (
        "Write a JavaScript function that waits for a number of milliseconds, and use it.",
        r#"const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function main() {
  console.log("one");
  await sleep(500);
  console.log("two");
}

main();"#,
    ),
    (
        "Write a SQL query that lists the ten customers who spent most last year.",
        r#"SELECT customers.name, SUM(orders.total) AS spent
FROM customers
JOIN orders ON orders.customer_id = customers.id
WHERE orders.placed_at >= DATE '2023-01-01' AND orders.placed_at < DATE '2024-01-01'
GROUP BY customers.id, customers.name
ORDER BY spent DESC
LIMIT 10;"#,
    ),
    (
        "Write a Go program that serves the time over HTTP.",
        r#"package main

import (
	"fmt"
	"log"
	"net/http"
	"time"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, time.Now().Format(time.RFC3339))
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}"#,
    ),
    (
        "Write a Haskell function that gives all primes.",
        r#"primes :: [Integer]
primes = sieve [2 ..]
  where
    sieve (p : rest) = p : sieve [n | n <- rest, n `mod` p /= 0]"#,
    ),
    (
        "Write a shell script that keeps the seven newest backups of a folder.",
        r#"#!/bin/sh
set -eu
cd "$1"
ls -t backup-*.tar.gz | tail -n +8 | while read -r old; do
  rm -- "$old"
done"#,
    ),
    (
        "Write a Java class for a point in the plane with its distance from another.",
        r#"public record Point(double x, double y) {
    public double distanceTo(Point other) {
        return Math.hypot(x - other.x, y - other.y);
    }
}"#,
    ),
    (
        "Write an HTML page with a form that asks for a name.",
        r#"<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>Name</title>
  </head>
  <body>
    <form action="/hello" method="post">
      <label>Your name <input name="name" required></label>
      <button>Send</button>
    </form>
  </body>
</html>"#,
    ),
    (
        "Write a Ruby method that tells whether a word is a palindrome.",
        r#"def palindrome?(word)
  letters = word.downcase.gsub(/[^a-z]/, "")
  letters == letters.reverse
end"#,
    ),
    (
        "Write an R script that fits a line to the speeds and stopping distances of cars, and plots both.",
        r#"fit <- lm(dist ~ speed, data = cars)
print(summary(fit))
plot(cars$speed, cars$dist, xlab = "speed (mph)", ylab = "distance (ft)")
abline(fit, lwd = 2)"#,
    ),
];
