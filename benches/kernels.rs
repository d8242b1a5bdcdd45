//! The kernels at the shapes of the embedded model, one batch of 512 tokens: `cargo bench --bench kernels [-- FILTER]`.
//!
//! f32 tensors on the CPU, as in serving; operands are the same in every run, so that small ones come from the caches.

use candle_core::{DType, Device, Result, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rewarden::nn::{
    attention::{Attention, Heads, Order},
    contract::{self, Bases},
    mlp::{Activation, Gate},
    norm::Norm,
    outer::outer,
    pack::{Query, Segment},
    product::{product, product_added, transposed},
    quantized::Quantized,
    rope::Rotation,
};
use std::{ffi::c_char, ops::Range, time::Duration};

/// The program's allocator: with the system's, every large output would be paid for page by page.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

// SAFETY: the allocator reads a pointer to a C string under this name before `main`, and nothing else has the name.
#[cfg(not(target_env = "msvc"))]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: Option<&c_char> =
    // SAFETY: the settings are not empty and live as long as the program.
    Some(unsafe { &*rewarden::allocator::SETTINGS.as_ptr() });

/// N: tokens of the batch.
const TOKENS: usize = 512;
/// Tokens of each of its sequences.
const LENGTH: usize = 128;
/// C.
const HIDDEN: usize = 576;
/// F.
const WIDE: usize = 1536;
const HEADS: Heads = Heads { heads: 9, groups: 3, size: 64, order: Order::ByKind };
const ATTENTION: Attention = Attention { heads: HEADS, scale: 0.125, cap: None, window: None };
const GATE: Gate = Gate { activation: Activation::Silu, gated: true };
/// r, of the update.
const RANK: usize = 8;
/// k, directions of a posterior's block.
const DIRECTIONS: usize = 16;
const EPS: f64 = 1e-5;

fn ok<T>(result: Result<T>) -> T {
    result.expect("the shapes fit")
}

/// Normal numbers.
fn random(shape: &[usize]) -> Tensor {
    ok(Tensor::randn(0f32, 1f32, shape, &Device::Cpu))
}

/// Runs of tokens, one a sequence.
fn sequences() -> Vec<Range<usize>> {
    (0..TOKENS).step_by(LENGTH).map(|start| start..start + LENGTH).collect()
}

fn queries(length: usize) -> Vec<Query> {
    let segments =
        (0..TOKENS).step_by(length).map(|start| Segment { tokens: start..start + length, parent: None });
    Query::all(&segments.collect::<Vec<_>>())
}

fn attentions(c: &mut Criterion) {
    let (qkv, dy) = (random(&[TOKENS, HEADS.width()]), random(&[TOKENS, HEADS.heads * HEADS.size]));
    let mut group = c.benchmark_group("attention");
    group.throughput(Throughput::Elements(TOKENS as u64));
    for length in [64, 256, 512] {
        let queries = queries(length);
        group.bench_function(format!("forward/{length}"), |b| {
            b.iter(|| ok(ATTENTION.forward(&qkv, &queries)))
        });
        group.bench_function(format!("backward/{length}"), |b| {
            b.iter(|| ok(ATTENTION.backward(&qkv, &queries, &dy)));
        });
    }
    group.finish();
}

fn rows(c: &mut Criterion) {
    let (x, dy) = (random(&[TOKENS, HIDDEN]), random(&[TOKENS, HIDDEN]));
    let norm = Norm { weight: random(&[HIDDEN]), bias: None, eps: EPS };
    let mut group = c.benchmark_group("rows");
    group.throughput(Throughput::Elements(TOKENS as u64));
    group.bench_function("norm/forward", |b| b.iter(|| ok(norm.forward(&x))));
    group.bench_function("norm/backward", |b| b.iter(|| ok(norm.backward(&x, &dy, &x))));
    let (gate_up, dact) = (random(&[TOKENS, 2 * WIDE]), random(&[TOKENS, WIDE]));
    group.bench_function("gate/forward", |b| b.iter(|| ok(GATE.forward(&gate_up))));
    group.bench_function("gate/backward", |b| b.iter(|| ok(GATE.backward(&gate_up, &dact))));
    let positions: Vec<u32> = (0..TOKENS).map(|i| (i % LENGTH) as u32).collect();
    let frequencies = vec![0.1; HEADS.size / 2];
    let rotation = ok(Rotation::new(&positions, &frequencies, DType::F32, &Device::Cpu));
    // It turns where it is: the numbers change from run to run, their sizes do not.
    let qkv = random(&[TOKENS, HEADS.width()]);
    let turning = HEADS.turning();
    group.bench_function("rope", |b| b.iter(|| ok(rotation.apply(qkv.clone(), &turning))));
    group.finish();
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("product");
    let named = [
        ("qkv", HEADS.width(), HIDDEN),
        ("o", HIDDEN, HIDDEN),
        ("gate_up", 2 * WIDE, HIDDEN),
        ("down", HIDDEN, WIDE),
    ];
    for (name, d_out, d_in) in named {
        let backward = random(&[d_out, d_in]);
        let forward = ok(transposed(&backward));
        let (x, dy) = (random(&[TOKENS, d_in]), random(&[TOKENS, d_out]));
        // Operations, so that criterion's elements a second are FLOP/s.
        group.throughput(Throughput::Elements((2 * TOKENS * d_out * d_in) as u64));
        group.bench_function(format!("{name}/forward"), |b| b.iter(|| ok(product(&x, &forward))));
        // As checkpoints store it: what the second copy of the weights is for.
        group.bench_function(format!("{name}/stored"), |b| b.iter(|| ok(product(&x, &ok(backward.t())))));
        group.bench_function(format!("{name}/added"), |b| b.iter(|| ok(product_added(&x, &forward, &dy))));
        let int8 = ok(Quantized::new(&backward));
        group.bench_function(format!("{name}/int8"), |b| b.iter(|| ok(int8.product(&x))));
        group.bench_function(format!("{name}/backward"), |b| b.iter(|| ok(product(&dy, &backward))));
    }
    group.finish();
}

fn jacobians(c: &mut Criterion) {
    let (narrow, groups) = (random(&[TOKENS, RANK]), sequences());
    let mut group = c.benchmark_group("jacobians");
    group.throughput(Throughput::Elements(TOKENS as u64));
    for d in [HIDDEN, WIDE] {
        let (x, a) = (random(&[TOKENS, d]), random(&[RANK, d]));
        group.bench_function(format!("down/{d}"), |b| b.iter(|| ok(product(&x, &ok(a.t())))));
        group.bench_function(format!("outer/{d}"), |b| b.iter(|| ok(outer(&narrow, &x, &groups))));
        let (long, short) = (random(&[d, DIRECTIONS]), random(&[RANK, RANK]));
        let (scale, residual_scale) = (random(&[RANK, DIRECTIONS]), random(&[RANK, 1]));
        let bases =
            Bases { long: &long, short: &short, scale: &scale, residual_scale: Some(&residual_scale) };
        let j = random(&[groups.len(), RANK, d]);
        group.bench_function(format!("contract/{d}"), |b| b.iter(|| ok(contract::fused(&bases, &j))));
    }
    group.finish();
}

fn short() -> Criterion {
    let seconds = Duration::from_secs;
    Criterion::default().sample_size(15).warm_up_time(Duration::from_millis(300)).measurement_time(seconds(1))
}

criterion_group! { name = kernels; config = short(); targets = attentions, rows, products, jacobians }
criterion_main!(kernels);
