//! Tensors of every type, from lists and from raw bytes.

use super::*;
use crate::onnx::{ReadError, Tensor, TensorError};

fn first(tensor: TensorProto) -> Result<Tensor, ReadError> {
    let model = read(&model(17, GraphProto { initializer: vec![tensor], ..Default::default() }))?;
    let (id, _) = model.graph.values().next().unwrap();
    Ok(model.graph.constant(id).unwrap().clone())
}

fn listed(element: ElementType, count: i64) -> TensorProto {
    TensorProto { name: "w".into(), data_type: element.to_onnx(), dims: vec![count], ..Default::default() }
}

/// As if each list were the one of the type.
fn filled(element: ElementType) -> TensorProto {
    TensorProto {
        float_data: vec![1.5, -2.0],
        double_data: vec![1.5, -2.0],
        int32_data: if element.bits() == 4 { vec![0x2f] } else { vec![1, 0] },
        int64_data: vec![7, -8],
        uint64_data: vec![7, 8],
        ..listed(element, 2)
    }
}

#[test]
fn lists_and_raw_bytes_are_the_same_tensor() {
    for element in ElementType::ALL.into_iter().filter(|&element| element != ElementType::Text) {
        let from_list = first(filled(element)).unwrap();
        let from_raw = first(TensorProto { raw_data: from_list.bytes().to_vec(), ..listed(element, 2) }).unwrap();
        assert_eq!(from_list.bytes(), from_raw.bytes(), "{element}");
        assert_eq!(from_list.bytes().len(), (2 * element.bits()).div_ceil(8), "{element}");
        assert_eq!(from_list.to_i64s().is_some(), !element.is_float(), "{element}");
        assert_eq!(from_list.to_f64s().is_some(), element.is_float(), "{element}");
        let short = TensorProto { dims: vec![5], ..filled(element) };
        let refused = first(short).unwrap_err();
        assert!(
            matches!(refused, ReadError::Tensor { source: TensorError::Length { .. }, .. }),
            "{element}: {refused:?}"
        );
    }
}

#[test]
fn values_are_read_by_type() {
    let raw = |element, bytes: &[u8], count| first(super::raw("w", element, &[count], bytes)).unwrap();
    assert_eq!(raw(ElementType::I4, &[0x8f, 0x07], 3).to_i64s().unwrap(), [-1, -8, 7]);
    assert_eq!(raw(ElementType::U4, &[0x8f, 0x07], 3).to_i64s().unwrap(), [15, 8, 7]);
    assert_eq!(raw(ElementType::I8, &[0x80, 0x7f], 2).to_i64s().unwrap(), [-128, 127]);
    assert_eq!(raw(ElementType::U16, &[1, 2], 1).to_i64s().unwrap(), [513]);
    assert_eq!(raw(ElementType::Bool, &[0, 1, 9], 3).to_i64s().unwrap(), [0, 1, 1]);
    assert_eq!(raw(ElementType::U64, &[0xff; 8], 1).to_i64s(), None);
    assert_eq!(raw(ElementType::F16, &[0x00, 0x3e], 1).to_f64s().unwrap(), [1.5]);
    assert_eq!(raw(ElementType::Bf16, &[0xc0, 0x3f], 1).to_f64s().unwrap(), [1.5]);
}

#[test]
fn integers_are_written_in_the_width_of_their_type() {
    for (element, values) in
        [(ElementType::I4, [-8, 7, -1]), (ElementType::U4, [15, 0, 9]), (ElementType::I16, [-300, 2, 9])]
    {
        let made = Tensor::from_i64s(element, vec![3], &values).unwrap();
        assert_eq!((made.to_i64s().unwrap(), made.bytes().len()), (values.to_vec(), (3 * element.bits()).div_ceil(8)));
        let beyond = i64::try_from(element.range().unwrap().1).unwrap() + 1;
        assert_eq!(Tensor::from_i64s(element, vec![1], &[beyond]), None, "{element}");
        assert_eq!(Tensor::from_i64s(element, vec![4], &values), None, "{element}");
    }
}

#[test]
fn texts_stay_as_they_are() {
    let texts = vec![b"a".to_vec(), vec![0xff]];
    let tensor = first(TensorProto { string_data: texts.clone(), ..listed(ElementType::Text, 2) }).unwrap();
    assert_eq!(tensor.texts().unwrap(), texts);
    assert!(first(TensorProto { string_data: texts, ..listed(ElementType::Text, 3) }).is_err());
}
