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
SAGEMAKER = """
[job]
on = "sagemaker"
name = "calculator-1"
model = "gpt-oss-20b"
region = "us-west-2"
role_arn = "arn:aws:iam::123456789012:role/Job"
accept_eula = true
[agent]
agentcore_arn = "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/calc-AbCdEfGhIj"
[data]
train = "s3://bucket/train.jsonl"
[output]
s3 = "s3://bucket/out/"
model_package_group = "arn:aws:sagemaker:us-west-2:123456789012:model-package-group/calc"
checkpoint_package_group = "arn:aws:sagemaker:us-west-2:123456789012:model-package-group/calc-ckpt"
mlflow_arn = "arn:aws:sagemaker:us-west-2:123456789012:mlflow-app/app-ABC"
[hyperparameters]
group_size = 8
max_steps = 20
"""
TEXTS = {"bedrock": BEDROCK, "nova": NOVA, "sagemaker": SAGEMAKER}


def write_job(folder, text):
    """Write the file of a job, beside files of data and a reward; return its path.

    train.jsonl has 100 rows for Bedrock, few.jsonl 9 of them, prompts.jsonl 40 prompts and few-prompts.jsonl 32.
    """
    rows = [
        {"messages": [{"role": "user", "content": f"{n} + {n}?"}], "reference_answer": str(2 * n)} for n in range(100)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:9]))
    prompts = [json.dumps({"prompt": f"What is {n} + {n}?"}) + "\n" for n in range(40)]
    (folder / "prompts.jsonl").write_text("".join(prompts))
    (folder / "few-prompts.jsonl").write_text("".join(prompts[:32]))
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
