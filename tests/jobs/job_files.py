"""Files of jobs, and changes of them."""

import json
import re

LAMBDA = "arn:aws:lambda:{}:123456789012:function:gsm8k"
BEDROCK = f"""
[job]
on = "bedrock"
name = "gsm8k-first"
model = "openai.gpt-oss-20b"
region = "us-west-2"
[data]
train = "train.jsonl"
[grader]
lambda_arn = "{LAMBDA.format("us-west-2")}"
[hyperparameters]
n_epochs = 1
batch_size = 4
learning_rate_multiplier = 1.0
"""
NOVA = f"""
[job]
on = "nova"
name = "gsm8k-first"
model = "amazon.nova-2-lite-v1:0:256k"
role_arn = "arn:aws:iam::123456789012:role/job"
[data]
train = "train.jsonl"
[grader]
lambda_arn = "{LAMBDA.format("us-east-1")}"
[hyperparameters]
epochCount = 1
batchSize = 16
learningRate = 1e-5
[output]
s3 = "s3://bucket/jobs/"
"""
TEXTS = {"bedrock": BEDROCK, "nova": NOVA}


def write_job(folder, text):
    """Write the file of a job, beside a good train.jsonl of 100 rows, one of 9 rows and a reward; return its path."""
    rows = [
        {"messages": [{"role": "user", "content": f"{n} + {n}?"}], "reference_answer": str(2 * n)} for n in range(100)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:9]))
    (folder / "reward.py").write_text("def reward(rollout):\n    return 1.0\n")
    file = folder / "job.toml"
    file.write_text(text)
    return file


def change(text, path, value):
    """Set a value, written as TOML, at `table.field`; None removes it."""
    table, _, name = path.rpartition(".")
    text = (
        re.sub(rf"(\[{table}\][^\[]*?\n){name} = .*\n", r"\1", text) if f"[{table}]" in text else f"{text}[{table}]\n"
    )
    return text if value is None else text.replace(f"[{table}]\n", f"[{table}]\n{name} = {value}\n")
