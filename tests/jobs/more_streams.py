from __future__ import annotations
import math, random
from dataclasses import replace
from aws_rft_sdk.jobs import Step
from streams import *
STREAMS = {
 "len grows w saturating reward": (lambda r: run(r, reward=rise(0.3,0.85,4), length=line(500,1500)), set()),
 "len x3 with reward, noise": (lambda r: run(r, 80, reward=line(0.2,0.7), noise=.1, length=line(400,1300), length_noise=.12), set()),
 "very noisy sd .2": (lambda r: run(r, 67, reward=rise(0.5,0.9), noise=0.2), set()),
 "plateau from step 20": (lambda r: run(r, 60, reward=points((0,.5),(.33,.88),(1,.88)), noise=.03), set()),
 "overshoot then settle": (lambda r: run(r, 80, reward=points((0,.4),(.5,.88),(.7,.82),(1,.85)), noise=.04), set()),
 "slow small": (lambda r: run(r, 60, reward=line(.5,.62), noise=.04), set()),
 "20 steps learning": (lambda r: run(r, 20, reward=line(.4,.7)), set()),
 "12 steps noisy down-ish": (lambda r: run(r, 12, reward=level(.6), noise=.1), set()),
 "zeros as placeholder": (lambda r: [replace(s, advantage_mean=0.0, policy_loss=0.0) for s in run(r)], set()),
 "lengths constant": (lambda r: [replace(s, response_length_mean=512.0) for s in run(r)], set()),
 "rewards NaN in some": (lambda r: [replace(s, reward_mean=None) if r.random()<.2 else s for s in run(r)], set()),
 "kl grows": (lambda r: run(r, kl=line(0,.2)), set()),
 "entropy noisy small": (lambda r: run(r, entropy=line(.2,.08)), set()),
 "constant flat no noise": (lambda r: run(r, 50, reward=level(.5), noise=0), {"reward_flat"}),
 "25 steps flat": (lambda r: run(r, 25, reward=level(.5), noise=.03), {"reward_flat"}),
 "saturated .955": (lambda r: run(r, 60, reward=level(.96), noise=.02), {"reward_saturated"}),
 "collapse 0.62 to 0.03 by 20": (lambda r: run(r, 60, entropy=points((0,.62),(.33,.03),(1,.02)), reward=points((0,.5),(.33,.7),(1,.7))), {"entropy_collapse"}),
 "some steps zero adv": (lambda r: [replace(s, advantage_mean=0.0) if r.random()<.7 else s for s in run(r, reward=line(.2,.4))], {"dead_groups"}),
 "pinned 2048": (lambda r: [replace(s, response_length_mean=2048.0 if s.step>30 else s.response_length_mean) for s in run(r, reward=rise(.3,.7), length=line(1500,1900))], {"truncation"}),
 "fall 15%": (lambda r: run(r, 67, reward=points((0,.5),(.4,.85),(1,.68)), noise=.04), {"reward_falling"}),
 "spike 20x": (lambda r: spiked(run(r, grad_noise=.4), [50], 40), {"gradient_spike"}),
 "len hack with tiny gain": (lambda r: run(r, 67, reward=line(.6,.63), noise=.02, length=line(400,1300)), {"length_growth"}),
 "overfit per step": (lambda r: validated(r, points((0,.5),(.5,.75),(1,.55)), every=1, noise=.04), {"overfitting"}),
 "trunc 8%": (lambda r: shares(r, "truncated_share", level(.09), noise=.03), {"truncation"}),
 "flat 200 noisy": (lambda r: run(r, 200, reward=level(.6), noise=.15), {"reward_flat"}),
 "AR flat": (lambda r: run(r, 100, reward=level(.5), noise=.05, likeness=.5), {"reward_flat"}),
 "AR plateau": (lambda r: run(r, 100, reward=rise(.4,.8,8), noise=.06, likeness=.6), set()),
}
