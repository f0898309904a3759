"""`aws-rft reward deploy` and `undeploy`: real boto3, moto for IAM and Lambda, and a Lambda that runs the zip."""

import json
import os
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError, CredentialsError, JobConfigError, JobServiceError, RewardError
from aws_rft_sdk.jobs._cloud import TAG, role_name
from aws_rft_sdk.jobs.graders import Grader, deploy, plan_deploy, undeploy
from aws_rft_sdk.rewards import gsm8k, packaging
from tests.jobs.lambda_world import ACCOUNT, REGION, World

NAME = "gsm8k-grader"
ROLE = role_name(NAME, REGION)
ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{NAME}"
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/{ROLE}"
REWARD = "from aws_rft_sdk.rewards import gsm8k as reward\n"
ROWS = [
    {"id": "a", "messages": [{"role": "user", "content": "2 + 2?"}], "reference_answer": "4"},
    {"prompt": "3 + 3?", "ground_truth": "6", "answer": "#### 7"},
]


@pytest.fixture(scope="module")
def _world():
    world = World()
    yield world
    world.stop()


@pytest.fixture
def world(_world, aws_keys):
    _world.reset()
    return _world


@pytest.fixture
def reward(tmp_path):
    path = tmp_path / "my_reward.py"
    path.write_text(REWARD)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return path


class Doing:
    """Deploys to the world, and notes what was said and how long somebody waited."""

    def __init__(self, world, file):
        self.world, self.file = world, file
        self.said, self.waits = [], []
        self.place = {"region": REGION, "endpoint_url": world.url, "say": self.said.append}

    def grader(self, **fields):
        return Grader(f"{self.file}:reward", **{"name": NAME, **fields})

    def deploy(self, **fields):
        samples = self.file.parent / "rows.jsonl"
        return deploy(self.grader(**fields), samples=samples, sleep=self.waits.append, **self.place)

    def undeploy(self, name=NAME):
        return undeploy(name, **self.place)

    def there(self):
        functions = self.world.client("lambda").list_functions()["Functions"]
        roles = self.world.client("iam").list_roles()["Roles"]
        return [item["FunctionName"] for item in functions], [item["RoleName"] for item in roles]


@pytest.fixture
def doing(world, reward):
    return Doing(world, reward)


# --- create, again, update


def test_deploy_when_new_then_function_role_and_policy_are_made_and_the_reply_is_checked(doing):
    doing.world.assume_failures, doing.world.pending = 2, 3
    done = doing.deploy()
    assert (done.arn, done.role, done.scores) == (ARN, ROLE_ARN, (1.0, 0.0))
    assert done.statement == {"Effect": "Allow", "Action": ["lambda:InvokeFunction"], "Resource": [ARN]}
    assert done.changes == (
        f"created role {ROLE_ARN}",
        f"wrote the policy aws-rft-grader of role {ROLE}",
        f"created function {ARN}",
    )
    assert [line for line in doing.said if "next try" in line] == [
        f"Lambda cannot use the role yet, next try in {seconds} s" for seconds in (1, 2)
    ]
    assert doing.said[-1] == f"called function {NAME} with 2 rows: scores 1, 0"
    assert doing.waits == [1.0, 2.0, 1.0, 1.0, 1.0]

    found = doing.world.client("lambda").get_function(FunctionName=NAME)
    settings = {key: found["Configuration"][key] for key in ("Handler", "Timeout", "MemorySize", "Role", "Runtime")}
    assert settings == {
        **{"Handler": "lambda_function.lambda_handler", "Timeout": 300, "MemorySize": 512, "Role": ROLE_ARN},
        "Runtime": Grader("", "").runtime,
    }
    assert found["Tags"] == {TAG: NAME}
    iam = doing.world.client("iam")
    role = iam.get_role(RoleName=ROLE)["Role"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    allowed = iam.get_role_policy(RoleName=ROLE, PolicyName="aws-rft-grader")["PolicyDocument"]["Statement"]
    group = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/{NAME}"
    assert [(item["Action"], item["Resource"]) for item in allowed] == [
        (["logs:CreateLogGroup"], [group]),
        (["logs:CreateLogStream", "logs:PutLogEvents"], [f"{group}:*"]),
    ]


def test_deploy_when_nothing_has_changed_then_nothing_is_written(doing):
    doing.deploy()
    doing.world.calls.clear()
    assert doing.deploy().changes == ()
    assert not [call for call in doing.world.calls if call.startswith(("Create", "Update", "Put", "Add", "Delete"))]


def test_deploy_when_the_reward_changes_then_the_code_does_and_nothing_else(doing):
    doing.deploy()
    doing.file.write_text("def reward(rollout):\n    return 0.25\n")
    done = doing.deploy()
    assert (done.changes, done.scores) == ((f"updated the code of function {NAME}",), (0.25, 0.25))


OTHER_TRUST = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, '
    '"Action": "sts:AssumeRole"}]}'
)
DRIFTS = {
    "Timeout": lambda aws, iam: aws(Timeout=3),
    "MemorySize": lambda aws, iam: aws(MemorySize=128),
    "Runtime": lambda aws, iam: aws(Runtime="python3.9"),
    "Handler": lambda aws, iam: aws(Handler="other.handler"),
    "Environment": lambda aws, iam: aws(Environment={"Variables": {"LEVEL": "other"}}),
    "Role": lambda aws, iam: aws(Role=iam.create_role(RoleName="other", AssumeRolePolicyDocument="{}")["Role"]["Arn"]),
    "trust policy": lambda aws, iam: iam.update_assume_role_policy(RoleName=ROLE, PolicyDocument=OTHER_TRUST),
    "wrote the policy": lambda aws, iam: iam.delete_role_policy(RoleName=ROLE, PolicyName="aws-rft-grader"),
}


@pytest.mark.parametrize("setting", DRIFTS)
def test_deploy_when_a_setting_has_drifted_then_that_one_is_brought_back(doing, setting):
    fields = {"environment": {"LEVEL": "secret-level"}}
    doing.deploy(**fields)
    lambdas, iam = doing.world.client("lambda"), doing.world.client("iam")
    keys = ("Handler", "Timeout", "MemorySize", "Role", "Runtime", "Environment")
    before = {key: lambdas.get_function_configuration(FunctionName=NAME)[key] for key in keys}
    DRIFTS[setting](lambda **change: lambdas.update_function_configuration(FunctionName=NAME, **change), iam)

    (change,) = doing.deploy(**fields).changes
    assert setting in change
    assert [key for key in keys if f"{key} from" in change or f"back {key}" in change] == [setting] * (setting in keys)
    assert {key: lambdas.get_function_configuration(FunctionName=NAME)[key] for key in keys} == before
    assert "secret-level" not in "".join(doing.said)


# --- failures


HALF = {
    "GetCallerIdentity": [],
    "CreateRole": [],
    "PutRolePolicy": ["role"],
    "CreateFunction": ["role"],
    "GetFunctionConfiguration": ["role", "function"],
    "AddPermission": ["role", "function"],
    "Invoke": ["role", "function"],
}


@pytest.mark.parametrize("step", HALF)
def test_deploy_when_a_step_is_refused_then_it_says_what_exists_and_undeploy_leaves_nothing(doing, step):
    doing.world.failing = {step: 10}
    with pytest.raises(JobServiceError) as caught:
        doing.deploy(caller=f"arn:aws:iam::{ACCOUNT}:role/trainer")
    assert caught.value.action.endswith({"Invoke": "InvokeFunction"}.get(step, step))
    told = doing.said[-1] if HALF[step] else ""
    assert [kind for kind in ("role", "function") if f"{kind} arn:" in told] == HALF[step]
    if HALF[step]:
        assert told.endswith(
            f"Remove them: aws-rft reward undeploy {NAME} --region {REGION} --endpoint {doing.world.url}"
        )
    doing.world.failing = {}
    assert len(doing.undeploy()) == len(HALF[step])
    assert doing.there() == ([], [])
    doing.deploy()  # and the next one works


def test_deploy_when_stopped_while_it_waits_then_what_exists_is_told(doing):
    def interrupt(seconds):
        raise KeyboardInterrupt

    doing.world.pending = 1
    with pytest.raises(KeyboardInterrupt):
        deploy(doing.grader(), sleep=interrupt, **doing.place)
    assert "stopped half-way" in doing.said[-1]


@pytest.mark.parametrize("own", [False, True], ids=["made-role", "given-role"])
def test_deploy_when_lambda_never_knows_the_role_then_it_ends(doing, own):
    doing.world.assume_failures = 100
    with pytest.raises(JobServiceError, match="cannot be assumed"):
        doing.deploy(role=f"arn:aws:iam::{ACCOUNT}:role/absent" if own else None)
    assert sum(doing.waits) == (0 if own else 63)


@pytest.mark.parametrize("state", [{"State": "Failed", "StateReason": "no memory"}, {"LastUpdateStatus": "Failed"}])
def test_deploy_when_the_function_fails_to_start_then_the_reason(doing, state):
    doing.world.pending, doing.world.state = 1, state
    with pytest.raises(JobServiceError, match=state.get("StateReason", "no reason")):
        doing.deploy()


BAD_REPLIES = [
    ({"statusCode": 200, "body": "[]"}, "0 results for 2 rows"),
    ([{"id": "a", "aggregate_reward_score": "1"}] * 2, "finite number"),
    ("text", "must be a list"),
    ([{"id": f"sample-{n}" if n else "a", "aggregate_reward_score": 1} for n in range(2)], None),
]


@pytest.mark.parametrize(("reply", "problem"), BAD_REPLIES)
def test_deploy_when_the_reply_is_wrong_then_it_is_not_done(doing, reply, problem):
    doing.world.reply = reply
    if problem is None:
        assert doing.deploy().scores == (1.0, 1.0)
    else:
        with pytest.raises(RewardError, match=problem):
            doing.deploy()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def reward(rollout):\n    raise KeyError('gold')\n", "KeyError: 'gold'"),
        ("import os\n\ndef reward(rollout):\n    return float(os.environ['LEVEL'])\n", "LEVEL"),
        ("def reward(rollout):\n    raise ValueError(rollout.answer)\n", "could score none of the 2"),
    ],
    ids=["same-reason", "variable", "different-reasons"],
)
def test_deploy_when_the_function_cannot_score_then_it_says_why(doing, code, problem):
    doing.file.write_text(code)
    with pytest.raises(RewardError, match=problem):
        doing.deploy()


def test_deploy_when_variables_are_given_then_the_function_has_them(doing):
    doing.file.write_text("import os\n\ndef reward(rollout):\n    return float(os.environ['LEVEL'])\n")
    assert doing.deploy(environment={"LEVEL": "0.5"}).scores == (0.5, 0.5)


# --- what is refused before anything is sent


PROBLEMS = [
    ({"name": "my grader"}, "name"),
    ({"name": "x" * 65}, "name"),
    ({"on": "sagemaker"}, "name"),
    ({"on": "azure"}, "on"),
    ({"role": "role/mine"}, "role"),
    ({"caller": "trainer"}, "caller"),
    ({"timeout_seconds": 901}, "timeout"),
    ({"timeout_seconds": 0}, "timeout"),
    ({"memory_mb": 127}, "memory"),
    ({"runtime": "nodejs22.x"}, "runtime"),
    ({"architecture": "riscv"}, "architecture"),
    ({"concurrency": 0}, "concurrency"),
    ({"envelope": "xml"}, "envelope"),
    ({"environment": {"AWS_REGION": "x"}}, "env.AWS_REGION"),
    ({"environment": {"1X": "x"}}, "env.1X"),
    ({"environment": {"SECRET": "s" * 4096}}, "env"),
]


@pytest.mark.parametrize(("fields", "path"), PROBLEMS, ids=lambda value: value if isinstance(value, str) else None)
def test_deploy_when_a_field_is_wrong_then_it_is_named_before_anything_is_sent(doing, fields, path):
    with pytest.raises(JobConfigError, match=f"\n{path} is ") as caught:
        doing.deploy(**fields)
    assert [problem.path for problem in caught.value.problems] == [path]
    assert doing.world.calls == []
    assert "ssss" not in str(caught.value)


@pytest.mark.parametrize("name", ["my-SageMaker-1", "sagemaker_x", "xSagemaker"])
def test_deploy_when_sagemaker_calls_it_then_its_name_says_so_and_the_reply_is_http(doing, name):
    assert doing.deploy(on="sagemaker", name=name).scores == (1.0, 0.0)
    answer = doing.world.client("lambda").invoke(FunctionName=name, Payload=json.dumps([]))
    assert json.loads(answer["Payload"].read())["statusCode"] == 200


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("import numpy\nfrom aws_rft_sdk.rewards import gsm8k as reward", "--with-deps"),
        ("import strands\nfrom aws_rft_sdk.rewards import gsm8k as reward", "boto3 client for bedrock-runtime"),
    ],
    ids=["numpy", "strands"],
)
def test_deploy_when_a_package_is_lacking_then_refused_with_what_to_do(doing, code, hint):
    doing.file.write_text(code)
    with pytest.raises(ConfigurationError, match=hint):
        doing.deploy()
    assert doing.world.calls == []


def test_deploy_when_there_are_no_credentials_elsewhere_then_credentials_error(reward, monkeypatch):
    with pytest.raises(CredentialsError):
        deploy(Grader(f"{reward}:reward", NAME), region=REGION)


# --- what is not ours


def make_role(iam, name):
    return iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]


def test_deploy_and_undeploy_when_a_function_of_that_name_is_not_ours_then_refused_and_untouched(doing):
    lambdas = doing.world.client("lambda")
    role = make_role(doing.world.client("iam"), "theirs")
    code = {"ZipFile": b"their code"}
    lambdas.create_function(FunctionName=NAME, Runtime="python3.12", Role=role, Handler="a.b", Code=code)
    for act in (doing.deploy, doing.undeploy):
        with pytest.raises(ConfigurationError, match="not made by aws-rft"):
            act()
    assert doing.there() == ([NAME], ["theirs"])


def test_deploy_and_undeploy_when_a_role_of_that_name_is_not_ours_then_refused_and_untouched(doing):
    make_role(doing.world.client("iam"), ROLE)
    for act in (doing.deploy, doing.undeploy):
        with pytest.raises(ConfigurationError, match="not made by aws-rft"):
            act()
    assert doing.there() == ([], [ROLE])


@pytest.mark.parametrize("kind", ["inline", "attached"])
def test_undeploy_when_others_gave_the_role_a_policy_then_nothing_is_removed(doing, kind):
    doing.deploy()
    iam = doing.world.client("iam")
    document = json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    )
    if kind == "inline":
        iam.put_role_policy(RoleName=ROLE, PolicyName="theirs", PolicyDocument=document)
    else:
        policy = iam.create_policy(PolicyName="theirs", PolicyDocument=document)["Policy"]["Arn"]
        iam.attach_role_policy(RoleName=ROLE, PolicyArn=policy)
    with pytest.raises(ConfigurationError, match="theirs"):
        doing.undeploy()
    assert doing.there() == ([NAME], [ROLE])


def test_undeploy_when_the_role_was_given_then_it_stays(doing):
    role = make_role(doing.world.client("iam"), "theirs")
    doing.deploy(role=role)
    assert any("iam show --for grader" in line for line in doing.said)
    assert doing.undeploy() == [ARN]
    assert doing.there() == ([], ["theirs"])
    assert doing.undeploy() == []


def test_role_name_when_the_function_has_a_long_name_then_at_most_64_characters_and_its_own():
    names = {role_name("x" * 63 + end, "ap-southeast-2") for end in "ab"}
    assert (len(names), max(map(len, names))) == (2, 64)


def test_deploy_when_a_caller_is_named_then_only_it_is_let_in(doing):
    first, second = (f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("first", "second"))
    for caller in (first, f"arn:aws:sts::{ACCOUNT}:assumed-role/first/session", second):
        doing.deploy(caller=caller)
    policy = json.loads(doing.world.client("lambda").get_policy(FunctionName=NAME)["Policy"])
    (statement,) = policy["Statement"]
    assert statement["Action"] == "lambda:InvokeFunction"
    assert second in json.dumps(statement["Principal"])
    assert sum("let " in line for line in doing.said) == 2


# --- judges


JUDGE = """
import boto3
from aws_rft_sdk.rewards import PANDALM, Judge, WeightedSum, gsm8k

judge = Judge(lambda: boto3.client("bedrock-runtime"), PANDALM, model_id="{model}")


def calls_it(rollout):
    return judge(rollout)


reward = {reward}
"""


@pytest.mark.parametrize(
    "expression",
    ["judge", "judge.against_reference", "calls_it", 'WeightedSum({"right": gsm8k, "good": (judge, 0.5)})'],
)
@pytest.mark.parametrize("model", ["amazon.nova-pro-v1:0", "us.amazon.nova-pro-v1:0"])
def test_plan_when_the_reward_asks_a_model_then_its_role_may_call_that_one(reward, expression, model):
    reward.write_text(JUDGE.format(model=model, reward=expression))
    requests = plan_deploy(
        Grader(f"{reward}:reward", NAME, environment={"KEY": "secret"}), region=REGION, account=ACCOUNT
    )
    assert [request.operation for request in requests] == ["CreateRole", "PutRolePolicy", "CreateFunction", "Invoke"]
    assert "secret" not in json.dumps([request._asdict() for request in requests])
    allowed = json.loads(requests[1].parameters["PolicyDocument"])["Statement"][2:]
    assert {tuple(item["Action"]) for item in allowed} == {("bedrock:InvokeModel",)}
    profile = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:inference-profile/us.amazon.nova-pro-v1:0"
    if model.startswith("us."):
        assert [item["Resource"] for item in allowed] == [
            [profile],
            ["arn:aws:bedrock:*::foundation-model/amazon.nova-pro-v1:0"],
        ]
        assert allowed[1]["Condition"] == {"StringEquals": {"bedrock:InferenceProfileArn": profile}}
    else:
        assert [item["Resource"] for item in allowed] == [[f"arn:aws:bedrock:{REGION}::foundation-model/{model}"]]


def test_deploy_when_it_is_a_judge_then_it_works_without_strands(doing, service):
    from tests.rewards.judging import answering

    doing.file.write_text(JUDGE.format(model="judge-1", reward="judge"))
    faults = dict.fromkeys(("wrong_verdict", "weak_reasoning", "incomplete", "disordered"), False)
    verdict = {"explanation": "", "verdict": "10", "reasoning": 5, "coverage": 10, "structure": 10, **faults}
    service.policy = answering(verdict)
    done = doing.deploy(environment={"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": service.endpoint})
    assert done.scores == (0.9, 0.9)


# --- dependencies


def make_wheel(folder, name, version, source):
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-manylinux2014_x86_64.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", source)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        tag = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: false\nTag: py3-none-manylinux2014_x86_64\n"
        wheel.writestr(f"{about}/WHEEL", tag)
        wheel.writestr(f"{about}/RECORD", "")


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder of wheels in place of the package index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    return folder


def test_deploy_when_dependencies_are_added_then_they_are_those_for_lambda(doing, wheels):
    make_wheel(wheels, "lambda_only_dep", "1.0", "SCORE = 0.75\n")
    doing.file.write_text("def reward(rollout):\n    from lambda_only_dep import SCORE\n\n    return SCORE\n")
    done = doing.deploy(with_deps=True)
    assert done.scores == (0.75, 0.75)
    with pytest.raises(ConfigurationError, match=r"pip cannot install lambda_only_dep for python3\.\d+ on arm64"):
        doing.deploy(with_deps=True, architecture="arm64")


def test_deploy_when_the_zip_is_too_large_then_refused_with_the_sizes(doing, monkeypatch):
    monkeypatch.setattr(packaging, "MAX_UNZIPPED_BYTES", 10_000)
    with pytest.raises(ConfigurationError, match="of 250,000,000 bytes unzipped"):
        doing.deploy()
    assert doing.world.calls == []


# --- the command line


def aws_rft(*arguments):
    return CliRunner().invoke(main, ["reward", *map(str, arguments)], catch_exceptions=False)


def test_commands_when_run_then_progress_result_and_exit_statuses(doing):
    where = ("--region", REGION, "--endpoint", doing.world.url)
    samples = ("--sample", doing.file.parent / "rows.jsonl")
    variable = ("--env", "LEVEL=secret-level")
    result = aws_rft("deploy", f"{doing.file}:reward", "--name", NAME, *samples, *variable, *where)
    assert result.exit_code == 0, result.output
    assert f"created function {ARN}" in result.stdout
    assert '"lambda:InvokeFunction"' in result.stdout
    assert "of 50,000,000 bytes zipped" in result.stdout
    assert "secret-level" not in result.output

    result = aws_rft("deploy", f"{doing.file}:reward", "--name", NAME, "--timeout", 60, *variable, *where, "--json")
    answer = json.loads(result.stdout)
    assert (answer["arn"], answer["changes"]) == (ARN, [f"brought back Timeout from 300 to 60 of function {NAME}"])
    assert "a made-up row" in result.stderr

    result = aws_rft("undeploy", NAME, *where, "--json")
    assert json.loads(result.stdout) == {"removed": [ARN, ROLE_ARN]}
    result = aws_rft("undeploy", NAME, *where)
    assert (result.exit_code, "nothing to remove" in result.output) == (0, True)
    assert aws_rft("deploy", f"{doing.file}:reward", "--name", "a b", *where).exit_code == 2
    assert aws_rft("deploy", f"{doing.file}:reward", "--name", NAME, "--env", "secret-text", *where).exit_code == 2
    doing.world.failing = {"CreateFunction": 10}
    result = aws_rft("deploy", f"{doing.file}:reward", "--name", NAME, *where)
    assert (result.exit_code, "reward undeploy" in result.stdout) == (1, True)
    assert "lambda:CreateFunction" in result.stderr


# --- the same scores as in process


_DATA = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "model_solutions.jsonl"
SOLUTIONS = Path(os.environ.get("RFT_GSM8K_SOLUTIONS", _DATA))
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@pytest.mark.skipif(not SOLUTIONS.is_file(), reason="set RFT_GSM8K_SOLUTIONS to model_solutions.jsonl")
def test_deployed_function_when_it_scores_recorded_answers_then_as_the_reward_does_here(doing):
    doing.deploy()
    rows = [json.loads(line) for line in SOLUTIONS.read_text(encoding="utf-8").splitlines()]
    lambdas = doing.world.client("lambda")
    for model in MODELS:
        event = [
            {
                "id": str(number),
                "messages": [{"role": "assistant", "content": row[model]["solution"]}],
                "metadata": {"reference_answer": row["ground_truth"]},
            }
            for number, row in enumerate(rows)
        ]
        reply = json.loads(lambdas.invoke(FunctionName=NAME, Payload=json.dumps(event))["Payload"].read())
        here = [gsm8k.score(row[model]["solution"], row["ground_truth"]) for row in rows]
        assert [result["aggregate_reward_score"] for result in reply] == here
        assert [result["id"] for result in reply] == [row["id"] for row in event]
