//! Every kernel against the portable function that it stands for, on random input in f64.

use crate::nn::{
    attention::{Heads, attention, attention_backward},
    check::{random, values},
    mlp::{swiglu, swiglu_backward},
    norm::{rms_norm, rms_norm_backward},
    outer::outer,
    pack::{Query, Segment},
    product::{product, product_added, transposed},
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
    let (beside, beside32) = (random(4, &[70, 301]), single(&random(4, &[70, 301])));
    let got = rms_norm_backward(&x32, &w32, 1e-5, &dy32, &beside32).unwrap();
    assert_close(&got, &rms_norm_backward(&x, &w, 1e-5, &dy, &beside).unwrap());
}

#[test]
fn gate_agrees() {
    let gate_up = (random(1, &[91, 406]) * 9.0).unwrap();
    let dy = random(3, &[91, 203]);
    let (gate_up32, dy32) = (single(&gate_up), single(&dy));
    assert_close(&swiglu(&gate_up32).unwrap(), &swiglu(&gate_up).unwrap());
    let got = swiglu_backward(&gate_up32, &dy32).unwrap();
    let want = swiglu_backward(&gate_up, &dy).unwrap();
    assert_close(&got.0, &want.0);
    assert_close(&got.1, &want.1);
}

#[test]
fn rotation_agrees() {
    let positions: Vec<u32> = (0..200).collect();
    let turn = |dtype| Rotation::new(&positions, &[1.0, 0.3, 0.01], dtype, &Device::Cpu).unwrap();
    let (x, exact, fused) = (random(1, &[200, 30]), turn(DType::F64), turn(DType::F32));
    assert_close(&fused.apply(single(&x), 3).unwrap(), &exact.apply(x.clone(), 3).unwrap());
    assert_close(&fused.apply_backward(single(&x), 3).unwrap(), &exact.apply_backward(x, 3).unwrap());
}

#[test]
fn attention_agrees() {
    let heads = Heads { heads: 6, groups: 2, size: 16 };
    let qkv = (random(1, &[341, heads.width()]) * 2.0).unwrap();
    let pooled = [149, 329, 330, 339, 340];
    for queries in [Query::all(&segments()), Query::some(&segments(), &pooled)] {
        let rows: usize = queries.iter().map(|query| query.tokens.len()).sum();
        let dy = random(4, &[rows, 96]);
        let got = attention(&single(&qkv), heads, &queries).unwrap();
        assert_close(&got, &attention(&qkv, heads, &queries).unwrap());
        let got = attention_backward(&single(&qkv), heads, &queries, &single(&dy)).unwrap();
        assert_close(&got, &attention_backward(&qkv, heads, &queries, &dy).unwrap());
    }
}

#[test]
fn products_agree_in_any_order() {
    let (a, b, to) = (random(1, &[45, 70]), random(2, &[33, 35]), random(3, &[45, 33]));
    let (a, a32) = (a.narrow(1, 35, 35).unwrap(), single(&a).narrow(1, 35, 35).unwrap());
    let (b, b32) = (b.t().unwrap(), single(&b).t().unwrap());
    assert_close(&product(&a32, &b32).unwrap(), &product(&a, &b).unwrap());
    let got = product_added(&a32, &b32, &single(&to)).unwrap();
    assert_close(&got, &product_added(&a, &b, &to).unwrap());
    assert_close(&transposed(&single(&to)).unwrap(), &transposed(&to).unwrap());
    let tall = random(4, &[70, 101]);
    assert_close(&transposed(&single(&tall)).unwrap(), &transposed(&tall).unwrap());
}

#[test]
fn outer_sums_agree_on_parts_of_rows() {
    let (left, right) = (random(1, &[50, 9]), random(2, &[50, 40]));
    let part = |x: &Tensor| x.narrow(1, 4, 5).unwrap();
    for groups in [std::iter::once(0..50).collect(), vec![0..13, 13..14, 14..50]] {
        let got = outer(&part(&single(&left)), &single(&right), &groups).unwrap();
        assert_close(&got, &outer(&part(&left), &right, &groups).unwrap());
    }
}
