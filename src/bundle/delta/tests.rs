//! Promises of deltas: what was written comes out, and nothing else ever does.

use super::range::Encoder;
use super::*;

/// Bytes that look like nothing: a counter's digests.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let blocks = (seed << 32..).flat_map(|i: u64| *Digest::of(&i.to_le_bytes()).as_bytes());
    blocks.take(length).collect()
}

/// Weights as they are: many small ones, few large.
fn weights(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, length * 4)
        .chunks(4)
        .map(|c| c.iter().fold(0, |sum: u8, b| sum.wrapping_add(b & 31)).wrapping_sub(62))
        .collect()
}

fn expected(new: &[u8]) -> Expected {
    Expected { sha256: Digest::of(new), size: new.len() as u64 }
}

fn applied(old: &[u8], delta: &[u8], expected: &Expected) -> Result<Vec<u8>, DeltaError> {
    let mut out = Vec::new();
    apply(&old, delta, expected, &mut out)?;
    Ok(out)
}

/// Files with some of everything, and the script between them.
fn sample() -> (Vec<u8>, Vec<u8>, Vec<Instruction>) {
    let mut old = noise(1, 4000);
    let levels = weights(2, 70_000);
    old.extend(&levels);
    let floats: Vec<u8> =
        weights(3, 3000).iter().flat_map(|&w| (f32::from(w.cast_signed()) * 0.01).to_le_bytes()).collect();
    old.extend(&floats);
    let text = b"a model that was exported anew calls its nodes by other names; ".repeat(20);
    old.extend(&text);
    let mut new = text.clone();
    new.splice(100..110, *b"everything");
    let inserted = new.len() as u64;
    new.extend(levels.iter().zip(noise(4, levels.len())).map(|(w, n)| w.wrapping_add(n & 1)));
    let halves = &old[4000..8000];
    new.extend(halves.chunks(2).flat_map(|h| u16::from_le_bytes([h[0], h[1]]).wrapping_sub(300).to_le_bytes()));
    new.extend(floats.chunks(4).zip(noise(5, 3000)).flat_map(|(f, n)| {
        let old = f32::from_le_bytes([f[0], f[1], f[2], f[3]]);
        (old + f32::from(n) * 1e-6).to_le_bytes()
    }));
    new.extend(&old[17..4000]);
    let add = |from, length, width, stride| Instruction::Add { from, length, width, stride };
    let text_at = (old.len() - text.len()) as u64;
    let script = vec![
        Instruction::Learn { from: text_at, length: text.len() as u64 },
        Instruction::Insert { length: inserted },
        add(4000, 70_000, Width::One, 700),
        add(4000, 4000, Width::Two, 1),
        add(74_000, 12_000, Width::Four, MAX_STRIDE),
        Instruction::Copy { from: 17, length: 3983 },
    ];
    (old, new, script)
}

#[test]
fn what_was_written_comes_out_whatever_the_instruction() {
    let (old, new, script) = sample();
    let (delta, cost) = write(&old, &new, &script);
    assert_eq!(applied(&old, &delta, &expected(&new)).unwrap(), new);
    // One random bit a level is an eighth of a byte; names that are known are next to nothing.
    let bytes = |at: usize| cost[at].1;
    assert!((8750..9300).contains(&bytes(2)), "{cost:?}");
    assert!(bytes(1) < 60 && bytes(5) < 8, "{cost:?}");
}

#[test]
fn the_extremes_of_every_width_come_back() {
    for width in Width::ALL {
        let edges: Vec<u32> = vec![0, 1, 127, 128, 255, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX];
        let all = || edges.iter().flat_map(|&a| edges.iter().map(move |&b| (a, b)));
        let bytes = |of: fn((u32, u32)) -> u32| -> Vec<u8> {
            all().flat_map(|pair| of(pair).to_le_bytes()[..width.bytes()].to_vec()).collect()
        };
        let (old, new) = (bytes(|(a, _)| a), bytes(|(_, b)| b));
        let script = [Instruction::Add { from: 0, length: new.len() as u64, width, stride: 11 }];
        let (delta, _) = write(&old, &new, &script);
        assert_eq!(applied(&old, &delta, &expected(&new)).unwrap(), new, "{width:?}");
    }
}

#[test]
fn the_form_is_the_same_on_every_machine_and_stays_so() {
    let (old, new, script) = sample();
    let digest = Digest::of(&write(&old, &new, &script).0).to_string();
    assert_eq!(
        digest, "822142a176a1d105b62aabffd0b489505a41a970e14553f3d4fa8a5a12ff94bc",
        "devices in the field read the form of before"
    );
}

#[test]
fn a_delta_that_breaks_off_anywhere_is_told_and_nothing_comes_of_it() {
    let (old, new, script) = sample();
    let (delta, _) = write(&old, &new, &script);
    for length in (0..delta.len()).step_by(997).chain([delta.len() - 1]) {
        assert!(applied(&old, &delta[..length], &expected(&new)).is_err(), "cut to {length}");
    }
    let more = [&delta[..], &[0; 8]].concat();
    assert!(matches!(applied(&old, &more, &expected(&new)), Err(DeltaError::Form { .. })));
    assert!(matches!(applied(&old, b"BSDIFF40", &expected(&new)), Err(DeltaError::NoDelta(_))));
    assert!(matches!(applied(&old, b"", &expected(&new)), Err(DeltaError::NoDelta(_))));
}

/// Counts what is written, and bears no more than it was told.
struct Bounded(u64);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len() as u64).expect("more came out than was asked for");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn wrong_bytes_anywhere_end_in_an_error_within_the_size() {
    let (old, new, script) = sample();
    let (delta, _) = write(&old, &new, &script);
    for at in (4..delta.len()).step_by(997) {
        let mut wrong = delta.clone();
        wrong[at] ^= 1 << (at % 8);
        let done = apply(&&old[..], &wrong[..], &expected(&new), &mut Bounded(new.len() as u64));
        assert!(done.is_err(), "byte {at}");
    }
    for seed in 0..40 {
        let wrong = [&MAGIC[..], &noise(seed, 3000)].concat();
        assert!(apply(&&old[..], &wrong[..], &expected(&new), &mut Bounded(new.len() as u64)).is_err(), "seed {seed}");
    }
}

#[test]
fn another_old_file_or_a_damaged_one_is_told_by_the_digest() {
    let (old, new, script) = sample();
    let (delta, _) = write(&old, &new, &script);
    let with = |at: usize| {
        let mut damaged = old.clone();
        damaged[at] ^= 1;
        applied(&damaged, &delta, &expected(&new)).unwrap_err()
    };
    assert!(matches!(with(100), DeltaError::Digest { .. }), "copied");
    // What is predicted from a wrong number is nonsense from there on; any of these says so.
    assert!(
        !matches!(with(5000), DeltaError::ReadDelta(_) | DeltaError::ReadOld(_) | DeltaError::Write(_)),
        "added to"
    );
    assert!(matches!(applied(&old[..50_000], &delta, &expected(&new)), Err(DeltaError::Outside { .. })));
    let other = Expected { sha256: Digest::of(b"other"), ..expected(&new) };
    assert!(matches!(applied(&old, &delta, &other), Err(DeltaError::Digest { .. })));
}

/// A delta of instructions alone, as a hostile publisher would write it; zeros follow.
fn hostile(instructions: &[Instruction]) -> Vec<u8> {
    let mut stream = Stream::new(Encoder::new(MAGIC.to_vec()));
    for &instruction in instructions {
        assert!(stream.instruction(instruction).is_ok());
    }
    let mut bytes = stream.bits.finish();
    bytes.extend([0; 64]);
    bytes
}

#[test]
fn instructions_that_leave_the_files_or_make_nothing_are_refused() {
    let old = noise(1, 1000);
    let add = |from, length, stride| Instruction::Add { from, length, width: Width::Four, stride };
    let copy = |from, length| Instruction::Copy { from, length };
    let refused = |script: &[Instruction]| {
        let asked = Expected { sha256: Digest::of(b""), size: 500 };
        apply(&&old[..], &hostile(script)[..], &asked, &mut Bounded(500)).unwrap_err()
    };
    for script in [copy(990, 11), copy(1000, 1), copy(u64::MAX, 2), copy(u64::MAX - 1, 1), add(998, 4, 1)] {
        assert!(matches!(refused(&[script]), DeltaError::Outside { size: 1000, .. }), "{script:?}");
    }
    for script in [copy(0, 501), copy(0, u64::MAX), Instruction::Insert { length: 501 }, add(0, 504, 1)] {
        assert!(matches!(refused(&[script]), DeltaError::TooLong { size: 500, .. }), "{script:?}");
    }
    let learn = |from, length| Instruction::Learn { from, length };
    for script in [copy(0, 0), Instruction::Insert { length: 0 }, add(0, 6, 1), add(0, 8, 0), add(0, 8, MAX_STRIDE + 1)]
    {
        assert!(matches!(refused(&[script]), DeltaError::Form { .. }), "{script:?}");
    }
    assert!(matches!(refused(&[learn(0, 0)]), DeltaError::Form { .. }));
    assert!(matches!(refused(&[learn(500, 501)]), DeltaError::Outside { .. }));
    assert!(matches!(refused(&[copy(0, 400), copy(0, 101)]), DeltaError::TooLong { written: 400, .. }));
    assert!(matches!(refused(&[copy(0, 400), Instruction::End]), DeltaError::TooShort { written: 400, .. }));
    // Learning makes no bytes: it cannot go on for ever.
    assert!(matches!(refused(&[learn(0, 1000); 5000]), DeltaError::Form { .. }));
}
