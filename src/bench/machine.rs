//! What the machine does at best: operations a second on numbers that are at hand, bytes a second from memory.

use super::timer::Timer;
use crate::{
    Result,
    nn::cpu::{
        gemm::{Matrix, MatrixMut},
        sum_of, vectorized,
    },
};
use rayon::prelude::*;
use serde::Serialize;
use std::hint::black_box;

/// Sizes of the square products of which the fastest counts: their three matrices fit into the usual caches.
const SQUARES: [usize; 3] = [256, 512, 1024];
/// Numbers that are summed, 256 MiB: more than most caches hold.
const SUMMED: usize = 64 << 20;
/// Numbers of one thread's task.
const TASK: usize = 1 << 20;

/// A processor's rates, with all threads that the products use.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Machine {
    /// Threads of the pool.
    pub threads: usize,
    /// The target's name for the processor.
    pub architecture: &'static str,
    /// Floating-point operations a second in f32: of the fastest of a few square products on data in the caches.
    pub operations_per_second: f64,
    /// Bytes a second: of a sum over more numbers than the caches hold.
    pub bytes_per_second: f64,
}

impl Machine {
    /// Measures this one.
    pub fn measure(timer: &Timer) -> Result<Self> {
        let mut operations_per_second: f64 = 0.0;
        for size in SQUARES {
            let operations = 2.0 * (size as f64).powi(3);
            operations_per_second = operations_per_second.max(operations / square(size, timer)?);
        }
        Ok(Self {
            threads: rayon::current_num_threads(),
            architecture: std::env::consts::ARCH,
            operations_per_second,
            bytes_per_second: (SUMMED * size_of::<f32>()) as f64 / sum(timer)?,
        })
    }
}

/// Seconds of a square product.
fn square(size: usize, timer: &Timer) -> Result<f64> {
    let [a, b] = [vec![0.5f32; size * size], vec![0.25; size * size]];
    let mut c = vec![0f32; size * size];
    timer.seconds(|| {
        let view = |values| Matrix::new(values, (size, size), size);
        MatrixMut::new(&mut c, (size, size), size).set_in_parallel(view(&a), view(&b));
        black_box(&c);
        Ok(())
    })
}

/// Seconds of a sum.
fn sum(timer: &Timer) -> Result<f64> {
    let values = vec![1f32; SUMMED];
    timer.seconds(|| {
        let of_task = |task: &[f32]| {
            vectorized(
                #[inline(always)]
                || {
                    sum_of(
                        task.len(),
                        #[inline(always)]
                        |i| task[i],
                    )
                },
            )
        };
        black_box(values.par_chunks(TASK).map(of_task).sum::<f32>());
        Ok(())
    })
}
