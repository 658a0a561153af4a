"""Holds recorded requests against the API model that botocore ships, and against a policy of deploy/iam.

    ec2_requests.py DIR [--policy deploy/iam/fleet.json] [--must ACTION,...]

The requests are what the local cloud was sent (SPOTREEL_LOCALCLOUD_RECORD), a line of JSON each. The model says what
EC2 and Service Quotas know: members, required ones, types, enums, bounds. --must names the actions that have to be
among them, so that a run that recorded nothing does not pass.
"""

import argparse
import base64
import fnmatch
import json
import pathlib
import re
import sys
import urllib.parse

import botocore
import botocore.loaders
import botocore.model
import botocore.validate

LOADER = botocore.loaders.Loader()
EC2 = botocore.model.ServiceModel(LOADER.load_service_model("ec2", "service-2"))
QUOTAS = botocore.model.ServiceModel(LOADER.load_service_model("service-quotas", "service-2"))
# What a person does who sets the system up, by rights of their own.
OF_THE_DEPLOYER = {"CreateLaunchTemplate", "CreateLaunchTemplateVersion"}
# What the policies leave open.
REGION, ACCOUNT, ENV = "us-east-2", "123456789012", "test"


# The markets whose launches were held against a policy.
LAUNCHES = set()


class Wrong(Exception):
    pass


# --- The model ------------------------------------------------------------------------------------------------------


def serialized(member_name, shape):
    """The name of a member in EC2's flat form."""
    said = shape.serialization
    if "queryName" in said:
        return said["queryName"]
    name = said.get("name", member_name)
    return name[0].upper() + name[1:]


def tree(form):
    """`Filter.1.Value.2=x` as nested dictionaries, leaves as texts."""
    root = {}
    for key, value in form:
        node, parts = root, key.split(".")
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise Wrong(f"{key}: a value and members at once")
        if parts[-1] in node:
            raise Wrong(f"{key} is there twice")
        node[parts[-1]] = value
    return root


def check(node, shape, at):
    """Raises for the first thing in `node` that the model does not know."""
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(node, dict):
            raise Wrong(f"{at}: a value where {shape.name} has members")
        names = {serialized(name, member): name for name, member in shape.members.items()}
        for name, child in node.items():
            if name not in names:
                raise Wrong(f"{at}.{name}: {shape.name} has no such member")
            check(child, shape.members[names[name]], f"{at}.{name}")
        there = {names[name] for name in node}
        for name in shape.required_members:
            if name not in there:
                raise Wrong(f"{at}: {shape.name} requires {name}")
    elif kind == "list":
        if not isinstance(node, dict):
            raise Wrong(f"{at}: a value where {shape.name} is a list")
        if sorted(map(int, node)) != list(range(1, len(node) + 1)):
            raise Wrong(f"{at}: numbered {sorted(node)}, and not from 1 on")
        bounds(len(node), shape, at)
        for number, child in node.items():
            check(child, shape.member, f"{at}.{number}")
    elif isinstance(node, dict):
        raise Wrong(f"{at}: members where {shape.name} is a {kind}")
    else:
        leaf(node, shape, kind, at)


def leaf(text, shape, kind, at):
    enum = getattr(shape, "enum", None)
    if enum and text not in enum:
        raise Wrong(f"{at}: {text!r} is none of {shape.name}: {', '.join(enum[:9])} …")
    try:
        if kind in ("integer", "long"):
            bounds(int(text), shape, at)
        elif kind in ("float", "double"):
            bounds(float(text), shape, at)
        elif kind == "boolean" and text not in ("true", "false"):
            raise ValueError(text)
        elif kind == "timestamp" and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", text):
            raise ValueError(text)
        elif kind == "blob":
            base64.b64decode(text, validate=True)
        elif kind == "string":
            bounds(len(text), shape, at)
            pattern = shape.metadata.get("pattern")
            if pattern and not re.search(pattern, text):
                raise Wrong(f"{at}: {text!r} is not of the form {pattern}")
    except ValueError:
        raise Wrong(f"{at}: {text!r} is no {kind}") from None


def bounds(number, shape, at):
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and number < least:
        raise Wrong(f"{at}: {number} is less than {least}")
    if most is not None and number > most:
        raise Wrong(f"{at}: {number} is more than {most}")


def held_against_the_model(action, body):
    """The request as a tree, if the service would understand it."""
    if action in QUOTAS.operation_names:
        request = json.loads(body)
        operation = QUOTAS.operation_model(action)
        report = botocore.validate.ParamValidator().validate(request, operation.input_shape)
        if report.has_errors():
            raise Wrong(report.generate_report())
        return request
    if action not in EC2.operation_names:
        raise Wrong("there is no such action")
    form = urllib.parse.parse_qsl(body, keep_blank_values=True, strict_parsing=True)
    request = tree([(key, value) for key, value in form if key not in ("Action", "Version")])
    if dict(form).get("Version") != EC2.metadata["apiVersion"]:
        raise Wrong(f"Version is not {EC2.metadata['apiVersion']}")
    check(request, EC2.operation_model(action).input_shape, action)
    return request


# --- The policy -----------------------------------------------------------------------------------------------------


class Policy:
    def __init__(self, path):
        text = path.read_text()
        for name, value in (("REGION", REGION), ("ACCOUNT", ACCOUNT), ("ENV", ENV)):
            text = re.sub(rf"\b{name}\b", value, text)
        self.statements = json.loads(text)["Statement"]

    def demand(self, action, resource, context):
        for statement in self.statements:
            actions, resources = as_list(statement["Action"]), as_list(statement["Resource"])
            if (
                action in actions
                and any(fnmatch.fnmatchcase(resource, pattern) for pattern in resources)
                and all(
                    context.get(key) in as_list(allowed)
                    for key, allowed in statement.get("Condition", {}).get("StringEquals", {}).items()
                )
            ):
                return
        raise Wrong(f"the policy allows no {action} on {resource} with {context}")


def as_list(value):
    return value if isinstance(value, list) else [value]


def arn(resource, account=ACCOUNT):
    return f"arn:aws:ec2:{REGION}:{account}:{resource}"


def request_tags(request, resource):
    """As IAM sees them, of those that a request or a template orders for a type of resource."""
    tags = {}
    for specification in request.get("TagSpecification", {}).values():
        if specification["ResourceType"] == resource:
            for tag in specification["Tag"].values():
                tags[f"aws:RequestTag/{tag['Key']}"] = tag.get("Value", "")
    return tags


def allowed(policy, action, request, templates):
    """Whether EC2 would find leave in the policy for all that the request touches."""
    if action in QUOTAS.operation_names:
        return policy.demand(f"servicequotas:{action}", "*", {"aws:RequestedRegion": REGION})
    if action == "CreateFleet":
        return launch_allowed(policy, request, templates)
    if action.startswith(("Describe", "GetSpot")):
        return policy.demand(f"ec2:{action}", "*", {"aws:RequestedRegion": REGION})
    # By the tags with which they were launched, which is checked there.
    ours = {"aws:ResourceTag/spotreel:env": ENV}
    kind = "fleet" if action == "DeleteFleets" else "instance"
    return policy.demand(f"ec2:{action}", arn(f"{kind}/x"), ours)


def launch_allowed(policy, request, templates):
    market = request["TargetCapacitySpecification"]["DefaultTargetCapacityType"]
    spot = market == "spot"
    for config in request["LaunchTemplateConfigs"].values():
        named = config["LaunchTemplateSpecification"]
        if (named["LaunchTemplateId"], named["Version"]) not in templates:
            continue  # A version that is not there yet: EC2 refuses it by itself.
        LAUNCHES.add(market)
        template_tags, data = templates[named["LaunchTemplateId"], named["Version"]]
        made = ["instance", "volume", "network-interface"] + ["spot-instances-request"] * spot
        for action in ("CreateFleet", "RunInstances"):
            for resource in made + ["fleet"] * (action == "CreateFleet"):
                tags = request_tags(data, resource) | request_tags(request, resource)
                policy.demand(f"ec2:{action}", arn(f"{resource}/*"), tags)
                if tags:
                    created = {"ec2:CreateAction": action}
                    policy.demand("ec2:CreateTags", arn(f"{resource}/x"), created)
            policy.demand(f"ec2:{action}", arn("image/ami-1", account=""), {})
            policy.demand(f"ec2:{action}", arn("subnet/subnet-1"), {})
            policy.demand(f"ec2:{action}", arn("security-group/sg-1"), {})
            policy.demand(f"ec2:{action}", arn("launch-template/lt-1"), template_tags)


def remember(templates, action, request, answer):
    """A template's own tags and the content of a version, by the names that launches have for it."""
    if not answer:
        return
    found = lambda name: re.search(f"<{name}>([^<]*)</{name}>", answer)[1]
    template = found("launchTemplateId")
    if action == "CreateLaunchTemplate":
        tags = request_tags(request, "launch-template")
        tags = {key.replace("RequestTag", "ResourceTag"): value for key, value in tags.items()}
        version = found("latestVersionNumber")
    else:
        tags, version = templates[template, "1"][0], found("versionNumber")
    templates[template, version] = (tags, request["LaunchTemplateData"])


# --- The run --------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--policy", type=pathlib.Path)
    parser.add_argument("--must", default="", help="actions that have to be among the requests")
    args = parser.parse_args()
    policy = Policy(args.policy) if args.policy else None
    counts, wrong = {}, {}
    for file in sorted(args.dir.glob("*.jsonl")):
        templates = {}
        for line in file.read_text().splitlines():
            recorded = json.loads(line)
            action, body = recorded["action"], recorded["body"]
            counts[action] = counts.get(action, 0) + 1
            try:
                request = held_against_the_model(action, body)
                if action in OF_THE_DEPLOYER:
                    remember(templates, action, request, recorded["answer"])
                elif policy:
                    allowed(policy, action, request, templates)
            except Wrong as why:
                wrong.setdefault(f"{action}: {why}", body)
    for why, body in wrong.items():
        print(f"ec2_requests: {why}\n  {body[:1000]}", file=sys.stderr)
    missing = sorted(set(filter(None, args.must.split(","))) - counts.keys())
    if missing:
        print(f"ec2_requests: never sent: {', '.join(missing)}", file=sys.stderr)
    if policy and "CreateFleet" in args.must and LAUNCHES != {"spot", "on-demand"}:
        missing.append(f"launches of both markets, only {LAUNCHES}")
        print(f"ec2_requests: {missing[-1]}", file=sys.stderr)
    told = ", ".join(f"{action} {count}" for action, count in sorted(counts.items()))
    under = f" and {args.policy}" if policy else ""
    print(f"ec2_requests: {sum(counts.values())} requests against botocore {botocore.__version__}{under}: {told}")
    sys.exit(1 if wrong or missing else 0)


if __name__ == "__main__":
    main()
