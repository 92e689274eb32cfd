//! Gradients that no difference tells: of equal extremes; and of products of activations, whose samples do not run at once.

use super::*;

#[test]
fn of_equal_extremes_the_gradient_is_shared_out_and_a_pool_gives_it_to_the_first() {
    let gradient = |op: &str, values: [f32; 8]| {
        let mut sketch = Sketch::new(&[("x", &[1, 2, 2, 2])]);
        let axes = sketch.ints(&[2, 3]);
        let inputs = [sketch.input(0), axes];
        let output = sketch.node(op, &inputs[..if op.starts_with("Reduce") { 2 } else { 1 }], &[]);
        let network = sketch.network_with_norms(output);
        let x = Tensor::from_slice(&values, (1, 2, 2, 2), &Device::Cpu).unwrap();
        let mut vary = Vary(network.graph().inputs[0].value, Var::from_tensor(&x).unwrap());
        let program = Program::new(&network, &|_| true).unwrap();
        let run = program.run(&[vec![x]], Mode::Inference, &[], &mut vary).unwrap();
        let sum = run.value(network.graph().outputs[0].value).unwrap().sum_all().unwrap();
        values_of(sum.backward().unwrap().get(&vary.1).unwrap())
    };
    // As torch.amax, torch.amin and torch.nn.AdaptiveMaxPool2d(1) have them.
    let x = [3.0, 1.0, 3.0, 1.0, 2.0, 2.0, 2.0, 2.0];
    assert_eq!(gradient("ReduceMax", x), [0.5, 0.0, 0.5, 0.0, 0.25, 0.25, 0.25, 0.25]);
    assert_eq!(gradient("ReduceMin", x), [0.0, 0.5, 0.0, 0.5, 0.25, 0.25, 0.25, 0.25]);
    assert_eq!(gradient("GlobalMaxPool", x), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
}

fn values_of(tensor: &Tensor) -> Vec<f32> {
    values(tensor).unwrap()
}

#[test]
fn products_whose_weights_are_computed_have_true_gradients() {
    // B and C are activations, turned or not.
    for turned in [0, 1] {
        let network = of_image(|sketch, input| {
            let rows = sketch.ints(&[4, 42]);
            let a = sketch.node("Reshape", &[input, rows], &[]);
            let squares = sketch.node("Mul", &[a, a], &[]);
            let b = match turned {
                0 => sketch.node("Transpose", &[squares], &[("perm", ints(&[1, 0]))]),
                _ => sketch.node("Identity", &[squares], &[]),
            };
            let line = sketch.ints(&[1]);
            let c = sketch.node("ReduceSum", &[a, line], &[("keepdims", Attribute::Int(1))]);
            let attributes =
                [("transB", Attribute::Int(turned)), ("alpha", Attribute::Float(0.3)), ("beta", Attribute::Float(0.7))];
            let product = sketch.node("Gemm", &[a, b, c], &attributes);
            let shape = sketch.ints(&[1, 16]);
            sketch.node("Reshape", &[product, shape], &[])
        });
        check_one(&format!("Gemm of activations, turned: {turned}"), &network);
    }
}
