"""Losses of distillation and their gradients by the student's values, as torch has them: distil.py [--out FILE]

Python with torch 2. Relations as in the authors' own code (github.com/lenscloth/RKD), but that means are over pairs and triples of different samples.
"""

import argparse
import json
import pathlib

import torch
import torch.nn.functional as F

TEMPERATURE = 4.0


def relative(x):
    apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return apart / apart[apart > 0].mean()


def cosines(x):
    apart = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), p=2, dim=2)
    return torch.bmm(apart, apart.transpose(1, 2))


def distances(student, teacher):
    n = len(student)
    return F.smooth_l1_loss(relative(student), relative(teacher), reduction="sum") / (n * (n - 1))


def angles(student, teacher):
    n = len(student)
    # Where two of the three are the same sample, the angle says nothing.
    one, other, third = torch.meshgrid(*[torch.arange(n)] * 3, indexing="ij")
    apart = (one != other) & (other != third) & (one != third)
    return F.smooth_l1_loss(cosines(student)[apart], cosines(teacher)[apart], reduction="mean")


def soft(kind):
    def loss(student, teacher):
        own, target = F.log_softmax(student / TEMPERATURE, 1), F.softmax(teacher / TEMPERATURE, 1)
        if kind == "kl":
            return F.kl_div(own, target, reduction="batchmean") * TEMPERATURE**2
        return F.cross_entropy(student / TEMPERATURE, target) * TEMPERATURE**2

    return loss


def binary(kind):
    def loss(student, teacher):
        target = torch.sigmoid(teacher / TEMPERATURE)
        value = F.binary_cross_entropy_with_logits(student / TEMPERATURE, target)
        if kind == "kl":
            value = value - F.binary_cross_entropy(target, target)
        return value * TEMPERATURE**2

    return loss


def case(loss, student, teacher):
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    return {"value": value.item(), "gradient": student.grad.flatten().tolist()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("distil.json"))
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    student, teacher = 3 * torch.randn(5, 6), 5 * torch.randn(5, 6)
    own, theirs = 2 + torch.randn(6, 3), 7 + 4 * torch.randn(6, 8)
    found = {
        "student": student.flatten().tolist(),
        "teacher": teacher.flatten().tolist(),
        "own": own.flatten().tolist(),
        "theirs": theirs.flatten().tolist(),
        "kl": case(soft("kl"), student, teacher),
        "cross-entropy": case(soft("cross-entropy"), student, teacher),
        "binary-kl": case(binary("kl"), student, teacher),
        "binary-cross-entropy": case(binary("cross-entropy"), student, teacher),
        # Labels from 0 to 1, each output for itself.
        "binary-labels": case(F.binary_cross_entropy_with_logits, student, torch.sigmoid(teacher)),
        "distances": case(distances, own, theirs),
        "angles": case(angles, own, theirs),
    }
    parser.parse_args().out.write_text(json.dumps(found, indent=1) + "\n")


main()
