//! Whatever reads what, a program gives what it gave, and moves no more.

use super::super::super::op::{Add, Conv, Finish, Op, Weights, Window};
use super::super::super::program::{Draft, Program, QuantParams, Type, ValueId as Id};
use super::super::super::reference::{Data, run};
use super::super::super::tests::hand::Lcg;
use super::{fold, moved};

const PARAMS: QuantParams = QuantParams { scale: 0.5, zero_point: 3, signed: true };
const TYPE: Type = Type::Int8(PARAMS);
const CHANNELS: usize = 12;

struct Grower {
    random: Lcg,
    draft: Draft,
}

impl Grower {
    fn any(&mut self) -> Id {
        let of_all = |&i: &usize| self.draft.values[i].shape[..2] == [2, CHANNELS];
        let fits: Vec<usize> = (0..self.draft.values.len()).filter(of_all).collect();
        let place = fits.len() - 1 - self.random.below(fits.len().min(4));
        Id(fits[place] as u32)
    }

    fn step(&mut self, op: Op, inputs: Vec<Id>, channels: usize) -> Id {
        self.draft.step(op, inputs, vec![2, channels, 3, 2], TYPE)
    }

    fn conv(&mut self, from: Id, group: usize) -> Id {
        let kernel = [1 + 2 * self.random.below(2); 2];
        let shape = vec![CHANNELS, CHANNELS / group, kernel[0], kernel[1]];
        let weights = Weights {
            data: self.random.bytes(shape.iter().product()).into(),
            shape,
            zero_points: if group == 1 { [5].into() } else { self.random.bytes(CHANNELS).into() },
        };
        let multipliers: Vec<f32> = (0..CHANNELS).map(|_| 1e-3 * (1 + self.random.below(9)) as f32).collect();
        let finish =
            Finish::Requantize { multipliers: multipliers.into(), zero_point: 3, low: -100, high: 120, table: None };
        let bias: Vec<i32> = (0..CHANNELS).map(|_| self.random.below(4000) as i32 - 2000).collect();
        let window = Window { kernel, pads: [kernel[0] / 2; 4], ..Window::UNIT };
        self.step(Op::Conv(Conv { weights, bias: bias.into(), window, group, finish }), vec![from], CHANNELS)
    }

    fn shuffle(&mut self, from: Id) -> Id {
        let groups = [2, 3, 4, 6][self.random.below(4)];
        let parts = self.draft.step(Op::Reshape, vec![from], vec![2, groups, CHANNELS / groups, 3, 2], TYPE);
        let turn = Op::Transpose { permutation: vec![0, 2, 1, 3, 4] };
        let turned = self.draft.step(turn, vec![parts], vec![2, CHANNELS / groups, groups, 3, 2], TYPE);
        self.step(Op::Reshape, vec![turned], CHANNELS)
    }

    /// Two of six channels, or five and seven, of two values.
    fn halves(&mut self, from: Id, with: Id) -> Id {
        let (cut, start) = if self.random.below(2) == 0 { (6, 6) } else { (5, 4) };
        let slice = |start| Op::Slice { starts: vec![0, start, 0, 0], steps: vec![1; 4] };
        let first = self.step(slice(start), vec![from], cut);
        let second = self.step(slice(0), vec![with], CHANNELS - cut);
        self.step(Op::Concat { axis: 1 }, vec![first, second], CHANNELS)
    }

    fn grow(&mut self) -> Id {
        let (from, with) = (self.any(), self.any());
        match self.random.below(9) {
            0 => self.conv(from, 1),
            1 => self.conv(from, CHANNELS),
            2 => self.conv(from, 3),
            3 | 4 => self.shuffle(from),
            5 => self.halves(from, with),
            6 => {
                let add = Add { ra: 0.75, rb: -0.5, c: 1.25, low: -110, high: 127 };
                self.step(Op::Add(add), vec![from, with], CHANNELS)
            }
            7 => {
                let map = (0..CHANNELS).map(|_| self.random.below(CHANNELS)).collect();
                self.step(Op::Select { maps: vec![None, Some(map), None, None] }, vec![from], CHANNELS)
            }
            _ => {
                let window = Window { kernel: [3; 2], pads: [1; 4], ..Window::UNIT };
                self.step(Op::MaxPool(window), vec![from], CHANNELS)
            }
        }
    }
}

#[test]
fn programs_give_what_they_gave_and_move_no_more() {
    let mut saved = 0;
    for seed in 0..400 {
        let mut grower = Grower { random: Lcg(seed), draft: Draft::default() };
        let input = grower.draft.value(vec![2, CHANNELS, 3, 2], TYPE);
        grower.draft.inputs.push(input);
        for _ in 0..2 + grower.random.below(10) {
            let made = grower.grow();
            if grower.random.below(5) == 0 {
                grower.draft.outputs.push(made);
            }
        }
        let last = grower.draft.steps.last().map(|step| step.output);
        grower.draft.outputs.extend(last.filter(|last| !grower.draft.outputs.contains(last)));
        let bytes = grower.random.bytes(2 * CHANNELS * 6);
        let (before, after) = (grower.draft.clone(), fold(grower.draft, |_| Some(())));
        assert!(moved(&after) <= moved(&before), "seed {seed}");
        saved += usize::from(moved(&after) < moved(&before));
        let [before, after] = [before, after].map(|draft| Program::new(draft).unwrap());
        let [wanted, found] = [&before, &after].map(|program| run(program, vec![Data::Int8(bytes.clone())]));
        assert_eq!(found, wanted, "seed {seed}:\n{before}\n{after}");
    }
    assert!(saved > 100, "only {saved} programs move less");
}

#[test]
fn without_memory_programs_stay_as_they_are() {
    let mut grower = Grower { random: Lcg(1), draft: Draft::default() };
    let input = grower.draft.value(vec![2, CHANNELS, 3, 2], TYPE);
    grower.draft.inputs.push(input);
    let shuffled = grower.shuffle(input);
    let output = grower.conv(shuffled, 1);
    grower.draft.outputs.push(output);
    let draft = grower.draft;
    assert_eq!(fold(draft.clone(), |_| None), draft);
    assert_eq!(moved(&fold(draft, |_| Some(()))), 0);
}
