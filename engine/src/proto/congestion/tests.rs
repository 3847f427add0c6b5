use super::*;

#[test]
fn algorithms_have_names() {
    for algorithm in [Algorithm::Model, Algorithm::Cubic, Algorithm::Fixed] {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
    }
    assert_eq!("Cubic".parse::<Algorithm>(), Err(UnknownAlgorithm));
    assert_eq!(Algorithm::default(), Algorithm::Model);
}
