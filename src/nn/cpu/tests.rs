//! Every kernel against the portable function that it stands for, on random input in f64.

use crate::nn::{
    attention::{attention, attention_backward},
    check::{random, values},
    mlp::{swiglu, swiglu_backward},
    norm::{rms_norm, rms_norm_backward},
    pack::Segment,
    rope::Rotation,
};
use candle_core::{DType, Device, Tensor};

fn single(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F32).unwrap()
}

/// The norm of the difference is small beside the norm of what is wanted.
fn assert_close(got: &Tensor, want: &Tensor) {
    assert_eq!((got.dims(), got.dtype(), want.dtype()), (want.dims(), DType::F32, DType::F64));
    let (got, want) = (values(got), values(want));
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(&want).map(|(a, b)| a - b));
    assert!(error <= 2e-6 * norm(&mut want.iter().copied()), "error {error}");
}

/// Long segments that need several blocks, a prompt with answers, a single token.
fn segments() -> Vec<Segment> {
    let own = |tokens| Segment { tokens, parent: None };
    let child = |tokens| Segment { tokens, parent: Some(150..240) };
    vec![own(0..150), own(150..240), child(240..330), child(330..331), child(331..340), own(340..341)]
}

#[test]
fn norm_agrees() {
    let (x, w, dy) = (random(1, &[70, 301]), random(2, &[301]), random(3, &[70, 301]));
    let (x32, w32, dy32) = (single(&x), single(&w), single(&dy));
    assert_close(&rms_norm(&x32, &w32, 1e-5).unwrap(), &rms_norm(&x, &w, 1e-5).unwrap());
    let got = rms_norm_backward(&x32, &w32, 1e-5, &dy32).unwrap();
    assert_close(&got, &rms_norm_backward(&x, &w, 1e-5, &dy).unwrap());
}

#[test]
fn gate_agrees() {
    let gate = (random(1, &[91, 203]) * 9.0).unwrap();
    let (up, dy) = (random(2, &[91, 203]), random(3, &[91, 203]));
    let (gate32, up32, dy32) = (single(&gate), single(&up), single(&dy));
    assert_close(&swiglu(&gate32, &up32).unwrap(), &swiglu(&gate, &up).unwrap());
    let got = swiglu_backward(&gate32, &up32, &dy32).unwrap();
    let want = swiglu_backward(&gate, &up, &dy).unwrap();
    assert_close(&got.0, &want.0);
    assert_close(&got.1, &want.1);
}

#[test]
fn rotation_agrees() {
    let positions: Vec<u32> = (0..200).collect();
    let turn = |dtype| Rotation::new(&positions, &[1.0, 0.3, 0.01], dtype, &Device::Cpu).unwrap();
    let (x, exact, fused) = (random(1, &[200, 3, 6]), turn(DType::F64), turn(DType::F32));
    assert_close(&fused.apply(&single(&x)).unwrap(), &exact.apply(&x).unwrap());
    assert_close(&fused.apply_backward(&single(&x)).unwrap(), &exact.apply_backward(&x).unwrap());
}

#[test]
fn attention_agrees() {
    let segments = segments();
    let q = (random(1, &[341, 6, 16]) * 4.0).unwrap();
    let (k, v, dy) = (random(2, &[341, 2, 16]), random(3, &[341, 2, 16]), random(4, &[341, 6, 16]));
    let (q32, k32, v32, dy32) = (single(&q), single(&k), single(&v), single(&dy));
    let got = attention(&q32, &k32, &v32, &segments).unwrap();
    assert_close(&got, &attention(&q, &k, &v, &segments).unwrap());
    let got = attention_backward(&q32, &k32, &v32, &segments, &dy32).unwrap();
    let want = attention_backward(&q, &k, &v, &segments, &dy).unwrap();
    for (got, want) in [(&got.0, &want.0), (&got.1, &want.1), (&got.2, &want.2)] {
        assert_close(got, want);
    }
}
