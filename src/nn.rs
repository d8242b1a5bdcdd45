//! Forward and backward of each layer, side by side.
//!
//! Letters: N tokens of the packed batch, C hidden size, H heads, G key/value heads, R = H / G, D head size,
//! T tokens of one segment, S keys that they see, F width of the MLP,
//! or of one of its E experts, k of which a token sees.
//!
//! Every `*_backward` takes what its forward took, plus the gradient of its output, and returns gradients in the same
//! order; `d` + name is the gradient of `name`. Nothing here uses candle's autograd, whose fused operations drop gradients
//! and whose matmul computes the frozen weight's gradient too. All functions work in f32, in f64 (tests), in
//! bf16 and f16 (scoring), and on any candle device; f32 on the CPU takes the fused kernels of `cpu`.

pub mod attention;
pub mod contract;
pub(crate) mod cpu;
pub mod exact;
pub mod experts;
pub mod fold;
pub mod gram;
pub mod linear;
pub mod mlp;
pub mod norm;
pub mod outer;
pub mod pack;
pub mod product;
pub mod quantized;
pub mod rope;
pub mod rotate;
pub mod rows;

#[cfg(test)]
pub(crate) mod check;
