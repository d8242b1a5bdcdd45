//! Every kernel against the portable function that it stands for, on random input in f64.

use crate::nn::{
    attention::{Attention, Heads, Order},
    check::{random, values},
    mlp,
    norm::Norm,
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
fn norms_agree() {
    let (x, w, dy, beside) =
        (random(1, &[70, 301]), random(2, &[301]), random(3, &[70, 301]), random(4, &[70, 301]));
    for bias in [None, Some(random(5, &[301]))] {
        let narrow = Norm { weight: single(&w), bias: bias.as_ref().map(single), eps: 1e-5 };
        let norm = Norm { weight: w.clone(), bias, eps: 1e-5 };
        assert_close(&narrow.forward(&single(&x)).unwrap(), &norm.forward(&x).unwrap());
        let got = narrow.backward(&single(&x), &single(&dy), &single(&beside)).unwrap();
        assert_close(&got, &norm.backward(&x, &dy, &beside).unwrap());
    }
}

#[test]
fn gates_agree() {
    for gate in mlp::tests::all() {
        let x = (random(1, &[91, 406]) * 9.0).unwrap();
        let dy = random(3, &[91, if gate.gated { 203 } else { 406 }]);
        assert_close(&gate.forward(&single(&x)).unwrap(), &gate.forward(&x).unwrap());
        let got = gate.backward(&single(&x), &single(&dy)).unwrap();
        let want = gate.backward(&x, &dy).unwrap();
        assert_close(&got.0, &want.0);
        assert_close(&got.1, &want.1);
    }
}

#[test]
fn rotation_agrees() {
    let positions: Vec<u32> = (0..200).collect();
    let turn = |dtype| Rotation::new(&positions, &[1.0, 0.3, 0.01], dtype, &Device::Cpu).unwrap();
    let (x, exact, fused) = (random(1, &[200, 30]), turn(DType::F64), turn(DType::F32));
    for starts in [&[0, 6, 12][..], &[1, 14]] {
        assert_close(&fused.apply(single(&x), starts).unwrap(), &exact.apply(x.clone(), starts).unwrap());
        let got = fused.apply_backward(single(&x), starts).unwrap();
        assert_close(&got, &exact.apply_backward(x.clone(), starts).unwrap());
    }
}

#[test]
fn attention_agrees() {
    let heads = Heads { heads: 6, groups: 2, size: 16, order: Order::ByKind };
    let plain = Attention { heads, scale: 0.25, cap: None, window: None };
    let by_group = Attention { heads: Heads { order: Order::ByGroup, ..heads }, ..plain };
    let qkv = (random(1, &[341, heads.width()]) * 2.0).unwrap();
    let pooled = [149, 329, 330, 339, 340];
    for attention in
        [plain, Attention { cap: Some(1.5), ..plain }, Attention { window: Some(50), ..plain }, by_group]
    {
        for queries in [Query::all(&segments()), Query::some(&segments(), &pooled)] {
            let rows: usize = queries.iter().map(|query| query.tokens.len()).sum();
            let dy = random(4, &[rows, 96]);
            let got = attention.forward(&single(&qkv), &queries).unwrap();
            assert_close(&got, &attention.forward(&qkv, &queries).unwrap());
            let got = attention.backward(&single(&qkv), &queries, &single(&dy)).unwrap();
            assert_close(&got, &attention.backward(&qkv, &queries, &dy).unwrap());
        }
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
