"""`aws-rft iam show` and `check`: policies for the user's own account, and what a role or user lacks."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from aws_rft_sdk import jobs
from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._iam_check import Principal, compare
from aws_rft_sdk.jobs.iam import Names, actions_of, invoke_models, needs_of, policy, statement, trust
from tests.jobs.lambda_world import ACCOUNT, REGION, World

FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:gsm8k"
NAMES = Names(ACCOUNT, REGION, function="gsm8k", bucket="my-data")
GROUP = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/gsm8k"
DEPLOYED = "arn:aws:bedrock:us-west-2:1:custom-model-deployment"
ROOM = Path(jobs.__file__).parent
WHERE = ("--region", REGION, "--account", ACCOUNT)


def aws_rft(*arguments):
    return CliRunner().invoke(main, ["iam", *map(str, arguments)], catch_exceptions=False)


# --- show


RUNTIME = f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}:runtime/calc-AbCdEfGhIj"
APP = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:mlflow-app/app-ABC"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/01234567-89ab-cdef-0123-456789abcdef"
ON_SAGEMAKER = ("--bucket", "my-data", "--job-role", "arn:aws:iam::1:role/r", "--agent", RUNTIME, "--mlflow", APP)
SHOWN = [
    ("caller", (), {("lambda:InvokeFunction", FUNCTION), ("bedrock-mantle:CreateFineTuningJob", "*")}, None),
    (
        "caller",
        ("--on", "nova", "--bucket", "my-data", "--job-role", "arn:aws:iam::1:role/r"),
        {
            ("iam:PassRole", "arn:aws:iam::1:role/r"),
            ("s3:PutObject", "arn:aws:s3:::my-data/*"),
            ("bedrock:CreateModelCustomizationJob", "*"),
        },
        None,
    ),
    (
        "agent",
        (),
        {
            ("sagemaker:Sample", f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:job/*"),
            ("sagemaker:CallWithBearerToken", "*"),
            ("bedrock:InvokeModel", f"arn:aws:bedrock:{REGION}::foundation-model/*"),
        },
        "bedrock-agentcore.amazonaws.com",
    ),
    (
        "agent",
        ("--model", "openai.gpt-oss-20b"),
        {("bedrock:InvokeModelWithResponseStream", f"arn:aws:bedrock:{REGION}::foundation-model/openai.gpt-oss-20b")},
        "bedrock-agentcore.amazonaws.com",
    ),
    (
        "job-role",
        ("--bucket", "my-data"),
        {
            ("s3:GetObject", "arn:aws:s3:::my-data/*"),
            ("s3:ListBucket", "arn:aws:s3:::my-data"),
            ("s3:PutObject", "arn:aws:s3:::my-data/*"),
            ("lambda:InvokeFunction", FUNCTION),
        },
        "bedrock.amazonaws.com",
    ),
    (
        "caller",
        ("--on", "sagemaker", *ON_SAGEMAKER, "--kms-key", KEY),
        {
            ("sagemaker:CreateJob", f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:job/*"),
            ("sagemaker:ListJobs", "*"),
            ("sagemaker:DescribeJobSchemaVersion", "*"),
            ("iam:PassRole", "arn:aws:iam::1:role/r"),
            ("s3:PutObject", "arn:aws:s3:::my-data/*"),
            ("sagemaker:CreatePresignedMlflowAppUrl", APP),
            ("sagemaker-mlflow:GetMetricHistory", APP),
            ("sagemaker:CreateModelPackageGroup", f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package-group/*"),
            ("logs:GetLogEvents", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/sagemaker/Job/*"),
            ("bedrock-agentcore:GetAgentRuntime", RUNTIME),
            ("kms:CreateGrant", KEY),
        },
        None,
    ),
    (
        "job-role",
        ("--on", "sagemaker", *ON_SAGEMAKER, "--kms-key", KEY, "--vpc"),
        {
            ("s3:ListBucket", "arn:aws:s3:::my-data"),
            ("lambda:InvokeFunction", FUNCTION),
            ("bedrock-agentcore:InvokeAgentRuntime", RUNTIME),
            ("bedrock-agentcore:InvokeAgentRuntime", f"{RUNTIME}/*"),
            ("sagemaker:CreateModelPackage", f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package/*"),
            ("sagemaker:CallMlflowAppApi", APP),
            ("kms:GenerateDataKey", KEY),
            ("ec2:CreateNetworkInterface", "*"),
        },
        "job.sagemaker.amazonaws.com",
    ),
    ("agent", ("--kms-key", KEY), {("kms:Decrypt", KEY)}, "bedrock-agentcore.amazonaws.com"),
    ("grader", (), {("logs:CreateLogGroup", GROUP), ("logs:PutLogEvents", f"{GROUP}:*")}, "lambda.amazonaws.com"),
    (
        "forwarder",
        ("--queue", "arn:aws:sqs:us-west-2:1:q"),
        {("sqs:SendMessage", "arn:aws:sqs:us-west-2:1:q"), ("logs:PutLogEvents", f"{GROUP}:*")},
        "lambda.amazonaws.com",
    ),
]


@pytest.mark.parametrize(("audience", "options", "wanted", "trusted"), SHOWN)
@pytest.mark.parametrize("function", ["gsm8k", FUNCTION], ids=["name", "arn"])
def test_show_when_there_are_no_credentials_then_policies_of_the_named_account(
    audience, options, wanted, trusted, function
):
    result = aws_rft("show", "--for", audience, "--function", function, *options, *WHERE, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    pairs = {
        (action, resource)
        for item in shown["policy"]["Statement"]
        for action in item["Action"]
        for resource in item["Resource"]
    }
    assert wanted <= pairs
    assert [resource for action, resource in pairs if action == "lambda:InvokeFunction"] in ([FUNCTION], [])
    if trusted is None:
        assert "trust" not in shown
    else:
        (item,) = shown["trust"]["Statement"]
        assert item["Principal"] == {"Service": trusted}
        assert item["Condition"]["StringEquals"] == {"aws:SourceAccount": ACCOUNT}


@pytest.mark.parametrize("audience", ["caller", "job-role"])
def test_show_when_jobs_are_on_sagemaker_then_nobody_gets_a_wildcard_that_has_a_name(audience):
    result = aws_rft("show", "--for", audience, "--on", "sagemaker", *ON_SAGEMAKER, *WHERE, "--json")
    shown = json.loads(result.stdout)
    passed = {
        item["Condition"]["StringEquals"]["iam:PassedToService"]: item
        for item in shown["policy"]["Statement"]
        if "iam:PassRole" in item["Action"]
    }
    assert result.stderr == ""
    assert set(passed) == ({"job.sagemaker.amazonaws.com"} if audience == "caller" else set())
    actions = {action for item in shown["policy"]["Statement"] for action in item["Action"]}
    assert not {action for action in actions if action.startswith(("kms:", "ec2:", "lambda:"))}  # none was named
    if audience == "job-role":
        assert shown["trust"]["Statement"][0]["Action"] == ["sts:AssumeRole", "sts:TagSession"]


def test_caller_of_sagemaker_when_this_package_calls_an_operation_then_it_is_allowed():
    """What the sources name as the action of a call, when they turn a refusal into an error."""
    text = "".join(
        path.read_text() for name in ("*sagemaker*", "_cloudwatch", "guard") for path in ROOM.glob(f"{name}.py")
    )
    called = set(re.findall(r'asking(?:_each)?\([^"]*"([a-z0-9-]+:\w+)"', text))
    called |= {f"sagemaker:{name}" for name in re.findall(r'_asking\("(\w+)"', text)}
    allowed = {
        action
        for app in (APP, APP.replace("mlflow-app/", "mlflow-tracking-server/"))
        for item in needs_of("caller", Names(ACCOUNT, REGION, mlflow=app), "sagemaker").statements
        for action in item["Action"]
    }
    assert {"sagemaker:CreateJob", "logs:GetLogEvents", "sagemaker:ListJobs"} <= called <= allowed


def test_show_when_something_is_not_named_then_it_says_how_to_narrow_it():
    result = aws_rft("show", "--for", "job-role", *WHERE)
    assert (result.exit_code, "pass --bucket" in result.stderr, "pass --function" in result.stderr) == (0, True, True)
    assert "trust policy of the job-role" in result.stdout


@pytest.mark.parametrize(
    ("model", "resources"),
    [
        ("qwen.qwen3-32b-v1:0", ["arn:aws:bedrock:us-west-2::foundation-model/qwen.qwen3-32b-v1:0"]),
        (
            "global.amazon.nova-2-lite-v1:0",
            [
                "arn:aws:bedrock:us-west-2:123456789012:inference-profile/global.amazon.nova-2-lite-v1:0",
                "arn:aws:bedrock:*::foundation-model/amazon.nova-2-lite-v1:0",
            ],
        ),
        (
            "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.amazon.nova-pro-v1:0",
            [
                "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.amazon.nova-pro-v1:0",
                "arn:aws:bedrock:*::foundation-model/amazon.nova-pro-v1:0",
            ],
        ),
        (
            "arn:aws:bedrock:us-west-2:1:custom-model-deployment/x",
            ["arn:aws:bedrock:us-west-2:1:custom-model-deployment/x"],
        ),
    ],
)
def test_models_when_called_then_exactly_those_are_allowed(model, resources):
    statements = invoke_models(Names(ACCOUNT, REGION, models=(model,)))
    assert [resource for item in statements for resource in item["Resource"]] == resources
    assert all("Condition" in item for item in statements if "arn:aws:bedrock:*" in item["Resource"][0])


@pytest.mark.parametrize(("region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")])
def test_names_when_the_region_is_of_another_part_of_aws_then_arns_are_too(region, partition):
    assert Names("1", region, function="f").function_arn == f"arn:{partition}:lambda:{region}:1:function:f"


@pytest.mark.parametrize(
    ("service", "operation", "actions"),
    [
        ("lambda", "Invoke", ("lambda:InvokeFunction",)),
        ("lambda", "DeleteFunction", ("lambda:DeleteFunction",)),
        ("bedrock-runtime", "Converse", ("bedrock:InvokeModel",)),
        ("bedrock", "CreateModelCustomizationJob", ("bedrock:CreateModelCustomizationJob", "iam:PassRole")),
        ("sagemaker", "CreateJob", ("sagemaker:CreateJob", "sagemaker:AddTags", "iam:PassRole")),
    ],
)
def test_actions_of_an_operation_when_it_has_another_name_then_that(service, operation, actions):
    assert actions_of(service, operation) == actions


# --- check


@pytest.fixture(scope="module")
def _world():
    world = World()
    yield world
    world.stop()


@pytest.fixture
def world(_world, aws_keys):
    _world.reset()
    _world.failing = {"SimulatePrincipalPolicy": 10}  # moto does not know it
    return _world


GRADER = needs_of("grader", Names(ACCOUNT, REGION, function="gsm8k", models=("us.amazon.nova-pro-v1:0",)))
ALL = {"logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "bedrock:InvokeModel"}
DENY = {"Effect": "Deny", "Action": "*", "Resource": "*"}
POLICIES = [
    pytest.param([*GRADER.statements], set(), id="exactly"),
    pytest.param([statement(["*"])], set(), id="everything"),
    pytest.param([statement(["logs:*", "BEDROCK:Invoke*"])], set(), id="wildcards"),
    pytest.param([statement(["logs:Put?ogEvents", "logs:Create*"])], {"bedrock:InvokeModel"}, id="question-mark"),
    pytest.param([], ALL, id="nothing"),
    pytest.param([{"Effect": "Allow", "Action": "logs:*", "Resource": "*"}], {"bedrock:InvokeModel"}, id="texts"),
    pytest.param([statement(["*"], [f"{GROUP}*"])], {"bedrock:InvokeModel"}, id="resource-wildcard"),
    pytest.param([statement(["*"], [GROUP.replace("gsm8k", "other*")])], ALL, id="other-resource"),
    pytest.param(
        [{"Effect": "Allow", "NotAction": "bedrock:*", "Resource": "*"}], {"bedrock:InvokeModel"}, id="not-action"
    ),
    pytest.param(
        [{"Effect": "Allow", "Action": "*", "NotResource": f"{GROUP}:*"}],
        {"logs:CreateLogStream", "logs:PutLogEvents"},
        id="not-resource",
    ),
    pytest.param([statement(["*"]), DENY], ALL, id="denied"),
    pytest.param([statement(["*"]), {**DENY, "Action": "logs:*"}], ALL - {"bedrock:InvokeModel"}, id="logs-denied"),
    pytest.param(
        [statement(["*"]), {**DENY, "Condition": {"Bool": {"aws:MultiFactorAuthPresent": "false"}}}],
        set(),
        id="denied-under-a-condition",
    ),
    pytest.param([statement(["*"], ["*"], {"StringEquals": {"aws:PrincipalTag/team": "a"}})], ALL, id="only-if"),
]


def make_role(iam, statements, *, how="inline", trusted=GRADER.trust, name="my-role"):
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trusted), Path="/teams/")["Role"]["Arn"]
    if statements:
        document = json.dumps(policy(statements))
        if how == "inline":
            iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document)
        else:
            made = iam.create_policy(PolicyName="p", PolicyDocument=document)["Policy"]["Arn"]
            iam.attach_role_policy(RoleName=name, PolicyArn=made)
    return arn


@pytest.mark.parametrize("how", ["inline", "attached"])
@pytest.mark.parametrize(("statements", "missing"), POLICIES)
def test_check_when_policies_are_read_then_what_they_lack(world, statements, missing, how):
    iam = world.client("iam")
    found = compare(GRADER, Principal.of(make_role(iam, statements, how=how)), iam)
    assert {gap.action for gap in found.missing} == missing
    assert not found.simulated
    assert ["simulate" in note for note in found.notes] == [True]
    for gap in found.missing:
        assert (gap.statement["Action"], gap.statement["Resource"]) == ([gap.action], [gap.resource])


@pytest.mark.parametrize("by_group", [False, True], ids=["own", "of-a-group"])
def test_check_when_it_is_a_user_then_its_policies_and_those_of_its_groups_count(world, by_group):
    iam = world.client("iam")
    user = iam.create_user(UserName="ann")["User"]["Arn"]
    document = json.dumps(policy([statement(["*"])]))
    if by_group:
        iam.create_group(GroupName="g")
        iam.add_user_to_group(GroupName="g", UserName="ann")
        iam.put_group_policy(GroupName="g", PolicyName="p", PolicyDocument=document)
    else:
        iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=document)
    assert compare(needs_of("caller", NAMES), Principal.of(user), iam).missing == ()


TRUSTS = [
    pytest.param(GRADER.trust, "", id="exactly"),
    pytest.param(trust("bedrock.amazonaws.com", NAMES), "does not trust lambda.amazonaws.com", id="other-service"),
    pytest.param(trust("lambda.amazonaws.com", Names("999999999999", REGION)), "lacks aws:SourceAccount", id="other"),
    pytest.param(
        policy([{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]),
        "lacks aws:SourceAccount",
        id="every-account",
    ),
]


@pytest.mark.parametrize(("trusted", "why"), TRUSTS)
def test_check_when_the_trust_policy_differs_then_it_says_so(world, trusted, why):
    iam = world.client("iam")
    found = compare(GRADER, Principal.of(make_role(iam, [statement(["*"])], trusted=trusted)), iam)
    assert [why in gap.why for gap in found.missing] == ([True] if why else [])


def test_check_when_the_job_role_cannot_be_tagged_then_it_says_so(world):
    needed = needs_of("job-role", NAMES, "sagemaker")
    trusted = trust("job.sagemaker.amazonaws.com", NAMES)  # without sts:TagSession, jobs fail after the third retry
    iam = world.client("iam")
    found = compare(needed, Principal.of(make_role(iam, [statement(["*"])], trusted=trusted)), iam)
    assert [gap.action for gap in found.missing] == ["sts:TagSession"]
    again = compare(needed, Principal.of(make_role(iam, [statement(["*"])], trusted=needed.trust, name="r2")), iam)
    assert again.missing == ()


class Simulating:
    """IAM that simulates: allows some actions. Everything else is moto's."""

    def __init__(self, iam, allowed, readable=True):
        self._iam, self._allowed, self._readable, self.asked = iam, allowed, readable, []

    def __getattr__(self, name):
        if name in ("get_paginator", "list_role_policies") and not self._readable:
            raise PermissionError("not authorized")
        return getattr(self._iam, name)

    def simulate_principal_policy(self, **asked):
        self.asked.append(asked)
        (resource,) = asked["ResourceArns"]
        decide = {True: "allowed", False: "explicitDeny"}
        return {
            "EvaluationResults": [
                {"EvalActionName": name, "EvalResourceName": resource, "EvalDecision": decide[name in self._allowed]}
                for name in asked["ActionNames"]
            ]
        }


@pytest.mark.parametrize("readable", [True, False])
def test_check_when_iam_simulates_then_its_answer_counts(world, readable):
    iam = world.client("iam")
    simulating = Simulating(iam, {"bedrock:InvokeModel", "logs:PutLogEvents"}, readable)
    role = make_role(iam, [])
    found = compare(GRADER, Principal.of(role), simulating)
    assert found.simulated
    assert {gap.action for gap in found.missing} == ALL - {"bedrock:InvokeModel", "logs:PutLogEvents"}
    assert {gap.why for gap in found.missing} == {"IAM's simulation says explicitDeny"}
    contexts = [entry for asked in simulating.asked for entry in asked["ContextEntries"]]
    assert [entry["ContextKeyName"] for entry in contexts] == ["bedrock:InferenceProfileArn"]
    assert {asked["PolicySourceArn"] for asked in simulating.asked} == {role}


@pytest.mark.parametrize(
    ("arn", "kind", "name"),
    [
        ("arn:aws:iam::123456789012:role/teams/a/my-role", "role", "my-role"),
        ("arn:aws:sts::123456789012:assumed-role/my-role/session", "role", "my-role"),
        ("arn:aws:iam::123456789012:user/ann", "user", "ann"),
    ],
)
def test_principal_when_it_is_an_arn_then_kind_and_name(arn, kind, name):
    assert Principal.of(arn)[1:] == (kind, name)


@pytest.mark.parametrize("arn", ["my-role", "arn:aws:iam::123456789012:root", "arn:aws:iam::1:role/x", ""])
def test_principal_when_it_is_something_else_then_configuration_error(arn):
    with pytest.raises(ConfigurationError, match="ARN of a role or user"):
        Principal.of(arn)


def test_check_command_when_something_is_missing_then_status_1_and_the_statement(world):
    iam = world.client("iam")
    role = make_role(iam, [statement(["logs:*"])])
    where = ("--region", REGION, "--endpoint", world.url, "--function", "gsm8k", "--role", role)
    assert aws_rft("check", "--for", "grader", *where).exit_code == 0

    result = aws_rft("check", "--for", "grader", "--model", "amazon.nova-pro-v1:0", *where)
    model = f"arn:aws:bedrock:{REGION}::foundation-model/amazon.nova-pro-v1:0"
    assert result.exit_code == 1
    assert f"missing: bedrock:InvokeModel on {model}: no policy allows it" in result.stdout
    assert json.dumps(statement(["bedrock:InvokeModel"], [model])) in result.stdout

    result = aws_rft("check", "--for", "caller", *where, "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["principal"], answer["simulated"]) == (1, role, False)
    assert {"lambda:InvokeFunction", "bedrock-mantle:CreateFile"} <= {gap["action"] for gap in answer["missing"]}
    assert aws_rft("check", "--for", "job-role", *where).exit_code == 2  # which bucket?
    assert aws_rft("check", "--for", "grader", *where[:-1], f"{role}-absent").exit_code == 1
