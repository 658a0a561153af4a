"""Drives the local cloud's EC2 with boto3 and checks what AWS documents.

Usage: ec2_boto3.py ENDPOINT ADMIN_ENDPOINT VCPU_QUOTA
"""

import base64
import json
import sys
import time
import urllib.request
from datetime import datetime, timedelta, timezone

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT, ADMIN = sys.argv[1:3]
QUOTA = int(sys.argv[3])
KEYS = dict(
    endpoint_url=ENDPOINT,
    region_name="us-east-2",
    aws_access_key_id="local",
    aws_secret_access_key="local-secret",
    config=Config(retries={"total_max_attempts": 1}),
)
ec2 = boto3.client("ec2", **KEYS)
quotas = boto3.client("service-quotas", **KEYS)
PATIENCE_S = 30


def code(call, **arguments):
    """The code that a call is refused with."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


def until(what, condition):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s")


def admin(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(ADMIN + path, data, headers)
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def user_data(script):
    return base64.b64encode(script.encode()).decode()


def template(name, **data):
    data = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "g5.xlarge", **data}
    made = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    return made["LaunchTemplate"]["LaunchTemplateId"]


def fleet_request(lt, target=1, market="spot", overrides=None, version="1", **more):
    config = {"LaunchTemplateSpecification": {"LaunchTemplateId": lt, "Version": version}}
    if overrides is not None:
        config["Overrides"] = overrides
    return {
        "Type": "instant",
        "LaunchTemplateConfigs": [config],
        "SpotOptions": {"AllocationStrategy": "price-capacity-optimized"},
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": target,
            "DefaultTargetCapacityType": market,
        },
        **more,
    }


def ids_of(fleet):
    return [i for placed in fleet["Instances"] for i in placed["InstanceIds"]]


def one(instance_id):
    found = ec2.describe_instances(InstanceIds=[instance_id])
    return found["Reservations"][0]["Instances"][0]


def until_state(instance_id, state):
    def look():
        found = one(instance_id)
        return found if found["State"]["Name"] == state else None

    return until(f"{instance_id} {state}", look)


def end(*fleets):
    """Ends what the fleets launched, and waits until its place is free again."""
    ids = [i for fleet in fleets for i in ids_of(fleet)]
    ec2.terminate_instances(InstanceIds=ids)
    for instance_id in ids:
        until_state(instance_id, "terminated")


def region():
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert [z["ZoneName"] for z in zones] == ["us-east-2a", "us-east-2b", "us-east-2c"]
    assert all(z["State"] == "available" and z["RegionName"] == "us-east-2" for z in zones)
    nowhere = code(ec2.describe_availability_zones, ZoneNames=["us-east-2x"])
    assert nowhere == "InvalidParameterValue", nowhere

    subnets = ec2.describe_subnets()["Subnets"]
    assert [s["AvailabilityZone"] for s in subnets] == [z["ZoneName"] for z in zones]
    only = {"Name": "availability-zone", "Values": ["us-east-2b"]}
    assert len(ec2.describe_subnets(Filters=[only])["Subnets"]) == 1
    missing = code(ec2.describe_subnets, SubnetIds=["subnet-0123456789abcdef0"])
    assert missing == "InvalidSubnetID.NotFound", missing

    types = ec2.describe_instance_types(InstanceTypes=["g5.xlarge"])["InstanceTypes"]
    assert types[0]["VCpuInfo"]["DefaultVCpus"] == 4
    assert types[0]["GpuInfo"]["Gpus"][0]["Name"] == "A10G"
    assert types[0]["GpuInfo"]["Gpus"][0]["MemoryInfo"]["SizeInMiB"] > 20_000
    assert types[0]["MemoryInfo"]["SizeInMiB"] == 16384
    assert code(ec2.describe_instance_types, InstanceTypes=["g99.huge"]) == "InvalidInstanceType"
    pages = ec2.get_paginator("describe_instance_types").paginate(PaginationConfig={"PageSize": 5})
    names = [t["InstanceType"] for page in pages for t in page["InstanceTypes"]]
    assert len(names) == len(set(names)) > 5, names

    offerings = ec2.describe_instance_type_offerings(
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": ["g5.x*"]}],
    )["InstanceTypeOfferings"]
    assert {o["Location"] for o in offerings} == {z["ZoneName"] for z in zones}
    assert {o["InstanceType"] for o in offerings} == {"g5.xlarge"}

    spot = quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-3819A6DF")["Quota"]
    assert spot["Value"] == QUOTA and "Spot" in spot["QuotaName"]
    listed = quotas.list_service_quotas(ServiceCode="ec2")["Quotas"]
    assert {q["QuotaCode"] for q in listed} == {"L-3819A6DF", "L-DB2E81BA"}
    unknown = code(quotas.get_service_quota, ServiceCode="ec2", QuotaCode="L-0")
    assert unknown == "NoSuchResourceException", unknown


def prices():
    now = datetime.now(timezone.utc)
    asked = dict(
        InstanceTypes=["g5.xlarge"],
        ProductDescriptions=["Linux/UNIX", "Linux/UNIX (Amazon VPC)"],
        StartTime=now,
    )
    found = ec2.describe_spot_price_history(**asked)
    changes = found["SpotPriceHistory"]
    assert len(changes) == 3 and not found["NextToken"], found
    assert all(c["Timestamp"] <= now and float(c["SpotPrice"]) > 0 for c in changes)
    windows = ec2.describe_spot_price_history(ProductDescriptions=["Windows"], StartTime=now)
    assert windows["SpotPriceHistory"] == []
    zone = ec2.describe_spot_price_history(AvailabilityZone="us-east-2a", **asked)
    assert len(zone["SpotPriceHistory"]) == 1
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        StartTime=now, PaginationConfig={"PageSize": 7}
    )
    keys = [(c["InstanceType"], c["AvailabilityZone"]) for p in pages for c in p["SpotPriceHistory"]]
    assert len(keys) == len(set(keys)) > 7

    order = {"instance_type": "g6.xlarge", "zone": "us-east-2a", "price_micros": 123_456}
    admin("/market/price", order)
    later = datetime.now(timezone.utc) + timedelta(seconds=1)
    found = ec2.describe_spot_price_history(
        InstanceTypes=["g6.xlarge"], AvailabilityZone="us-east-2a", StartTime=later
    )["SpotPriceHistory"]
    assert [c["SpotPrice"] for c in found] == ["0.123456"], found


def templates():
    made = ec2.create_launch_template(
        LaunchTemplateName="versions",
        ClientToken="template-token",
        LaunchTemplateData={
            "ImageId": "ami-1",
            "InstanceType": "g5.xlarge",
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 100, "Encrypted": True}}
            ],
            "TagSpecifications": [
                {"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}
            ],
        },
        TagSpecifications=[
            {"ResourceType": "launch-template", "Tags": [{"Key": "Project", "Value": "p"}]}
        ],
    )["LaunchTemplate"]
    assert (made["DefaultVersionNumber"], made["LatestVersionNumber"]) == (1, 1)
    lt = made["LaunchTemplateId"]
    taken = code(
        ec2.create_launch_template,
        LaunchTemplateName="versions",
        LaunchTemplateData={"ImageId": "ami-1"},
    )
    assert taken == "InvalidLaunchTemplateName.AlreadyExistsException", taken

    ec2.create_launch_template_version(
        LaunchTemplateId=lt,
        SourceVersion="1",
        VersionDescription="bigger",
        LaunchTemplateData={"InstanceType": "g5.2xlarge"},
    )
    found = ec2.describe_launch_template_versions(LaunchTemplateId=lt, Versions=["$Latest", "1"])
    two, first = found["LaunchTemplateVersions"]
    assert (two["VersionNumber"], two["DefaultVersion"]) == (2, False)
    assert first["DefaultVersion"]
    data = two["LaunchTemplateData"]
    assert data["InstanceType"] == "g5.2xlarge" and data["ImageId"] == "ami-1", data
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 2
    assert data["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 100
    assert data["TagSpecifications"][0]["Tags"] == [{"Key": "from", "Value": "template"}]
    listed = ec2.describe_launch_templates(LaunchTemplateNames=["versions"])["LaunchTemplates"]
    assert listed[0]["LatestVersionNumber"] == 2
    assert listed[0]["Tags"] == [{"Key": "Project", "Value": "p"}]

    describe = ec2.describe_launch_template_versions
    assert code(describe, LaunchTemplateId=lt, Versions=["9"]) == (
        "InvalidLaunchTemplateId.VersionNotFound"
    )
    nobody = "lt-0123456789abcdef0"
    assert code(describe, LaunchTemplateId=nobody) == "InvalidLaunchTemplateId.NotFound"
    assert code(describe, LaunchTemplateId="lt-x") == "InvalidLaunchTemplateId.Malformed"
    assert code(describe, LaunchTemplateName="none") == (
        "InvalidLaunchTemplateName.NotFoundException"
    )
    ec2.delete_launch_template(LaunchTemplateId=lt)
    assert code(ec2.delete_launch_template, LaunchTemplateId=lt) == (
        "InvalidLaunchTemplateId.NotFound"
    )


def launch_and_end():
    script = "#!/bin/bash\necho up > ready\nexec sleep 600\n"
    lt = template(
        "workers",
        UserData=user_data(script),
        InstanceInitiatedShutdownBehavior="terminate",
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "Type", "Value": "worker"}]}
        ],
    )
    subnets = [s["SubnetId"] for s in ec2.describe_subnets()["Subnets"]]
    kinds = ["g5.xlarge", "g5.2xlarge"]
    overrides = [{"InstanceType": k, "SubnetId": s} for k in kinds for s in subnets]
    tags = [
        {"ResourceType": what, "Tags": [{"Key": "batch", "Value": "render-1"}]}
        for what in ("instance", "fleet", "volume", "network-interface")
    ]
    request = fleet_request(lt, 3, overrides=overrides, TagSpecifications=tags, ClientToken="t-1")
    assert code(ec2.create_fleet, DryRun=True, **request) == "DryRunOperation"
    fleet = ec2.create_fleet(**request)
    ids = ids_of(fleet)
    assert len(ids) == 3 and fleet["Errors"] == [], fleet

    again = ec2.create_fleet(**request)
    assert (again["FleetId"], ids_of(again)) == (fleet["FleetId"], ids), "a replay launches nothing"
    other = fleet_request(lt, 4, overrides=overrides, TagSpecifications=tags, ClientToken="t-1")
    assert code(ec2.create_fleet, **other) == "IdempotentParameterMismatch"

    for instance_id in ids:
        until_state(instance_id, "running")
    mine = [
        {"Name": "tag:batch", "Values": ["render-*"]},
        {"Name": "tag-key", "Values": ["Type"]},
        {"Name": "instance-state-name", "Values": ["pending", "running"]},
    ]
    found = ec2.describe_instances(Filters=mine)["Reservations"]
    assert sorted(i["InstanceId"] for r in found for i in r["Instances"]) == sorted(ids)
    instance = found[0]["Instances"][0]
    own = {t["Key"]: t["Value"] for t in instance["Tags"]}
    assert own["aws:ec2:fleet-id"] == fleet["FleetId"] and own["Type"] == "worker", own
    assert instance["InstanceLifecycle"] == "spot"
    assert instance["SpotInstanceRequestId"].startswith("sir-")
    zone = instance["Placement"]["AvailabilityZone"]
    assert zone.startswith("us-east-2") and instance["PrivateIpAddress"]
    assert ec2.describe_instances(
        Filters=[{"Name": "tag:batch", "Values": ["render-?x"]}]
    )["Reservations"] == []

    ec2.create_tags(Resources=[ids[0]], Tags=[{"Key": "ready", "Value": "now"}])
    assert {"Key": "ready", "Value": "now"} in one(ids[0])["Tags"]
    ec2.delete_tags(Resources=[ids[0]], Tags=[{"Key": "ready"}])
    assert "ready" not in {t["Key"] for t in one(ids[0])["Tags"]}
    reserved = code(ec2.create_tags, Resources=ids[:1], Tags=[{"Key": "aws:x", "Value": "y"}])
    assert reserved == "InvalidParameterValue", reserved

    # Instant fleets are told only to whoever names them.
    assert ec2.describe_fleets()["Fleets"] == []
    told = ec2.describe_fleets(FleetIds=[fleet["FleetId"]])["Fleets"][0]
    assert (told["FleetState"], told["Type"]) == ("active", "instant")
    assert told["FulfilledCapacity"] == 3.0
    assert {"Key": "batch", "Value": "render-1"} in told["Tags"]
    assert sorted(ids_of(told)) == sorted(ids)

    # All or nothing.
    nobody = "i-0123456789abcdef0"
    terminate = ec2.terminate_instances
    assert code(terminate, InstanceIds=[ids[0], nobody]) == "InvalidInstanceID.NotFound"
    assert code(terminate, InstanceIds=["i-x"]) == "InvalidInstanceID.Malformed"
    assert code(terminate, InstanceIds=ids, DryRun=True) == "DryRunOperation"
    assert one(ids[0])["State"]["Name"] == "running"
    ended = terminate(InstanceIds=ids[:1])["TerminatingInstances"][0]
    assert ended["PreviousState"]["Name"] == "running", ended
    assert ended["CurrentState"] == {"Code": 32, "Name": "shutting-down"}, ended
    gone = until_state(ids[0], "terminated")
    assert gone["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert gone["StateTransitionReason"].startswith("User initiated (")
    once_more = terminate(InstanceIds=ids[:1])["TerminatingInstances"][0]
    assert once_more["PreviousState"]["Name"] == once_more["CurrentState"]["Name"] == "terminated"

    # The market takes one.
    struck = admin("/market/interrupt", {"instance": ids[1], "kind": "notice", "lead_s": 0.2})
    assert struck == {"instance": ids[1]}
    taken = until_state(ids[1], "terminated")
    assert taken["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert taken["StateTransitionReason"] == "Server.SpotInstanceTermination"

    # Deleting the fleet ends the rest.
    delete = ec2.delete_fleets
    refused = code(delete, FleetIds=[fleet["FleetId"]], TerminateInstances=False)
    assert refused == "InvalidParameterValue", refused
    deleted = delete(
        FleetIds=[fleet["FleetId"], "fleet-00000000-0000-0000-0000-000000000000"],
        TerminateInstances=True,
    )
    assert [d["FleetId"] for d in deleted["SuccessfulFleetDeletions"]] == [fleet["FleetId"]]
    failed = deleted["UnsuccessfulFleetDeletions"][0]["Error"]["Code"]
    assert failed == "fleetIdDoesNotExist", failed
    until_state(ids[2], "terminated")
    told = ec2.describe_fleets(FleetIds=[fleet["FleetId"]])["Fleets"][0]
    assert told["FleetState"] == "deleted"
    many = ["fleet-%08x-0000-0000-0000-000000000000" % n for n in range(26)]
    assert code(delete, FleetIds=many, TerminateInstances=True) == "InvalidParameterValue"


def shutdown_behavior():
    for name, behavior, state in [("ends", "terminate", "terminated"), ("stays", "stop", "stopped")]:
        lt = template(
            name, UserData=user_data("exit 0\n"), InstanceInitiatedShutdownBehavior=behavior
        )
        by_name = {"LaunchTemplateName": name, "Version": "$Default"}
        request = fleet_request(lt)
        request["LaunchTemplateConfigs"][0]["LaunchTemplateSpecification"] = by_name
        (instance_id,) = ids_of(ec2.create_fleet(**request))
        ended = until_state(instance_id, state)
        assert ended["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
        ec2.terminate_instances(InstanceIds=[instance_id])
        until_state(instance_id, "terminated")


def refusals():
    lt = template("refusals")
    pool = {"InstanceType": "g5.xlarge", "AvailabilityZone": "us-east-2a"}

    low = fleet_request(lt, overrides=[{**pool, "MaxPrice": "0.01"}])
    fleet = ec2.create_fleet(**low)
    assert ids_of(fleet) == []
    error = fleet["Errors"][0]
    assert error["ErrorCode"] == "SpotMaxPriceTooLow" and error["Lifecycle"] == "spot"
    assert error["ErrorMessage"].startswith("Your Spot request price of 0.010000 is lower than the")
    overrides = error["LaunchTemplateAndOverrides"]["Overrides"]
    assert overrides["InstanceType"] == "g5.xlarge"
    assert overrides["AvailabilityZone"] == "us-east-2a"

    capacity = {"instance_type": "g5.xlarge", "zone": "us-east-2a"}
    admin("/market/capacity", {**capacity, "capacity": 2})
    partial = ec2.create_fleet(**fleet_request(lt, 5, overrides=[pool]))
    assert len(ids_of(partial)) == 2
    assert [e["ErrorCode"] for e in partial["Errors"]] == ["InsufficientInstanceCapacity"]
    end(partial)
    admin("/market/capacity", {**capacity, "capacity": 1000})

    odd = ec2.create_fleet(**fleet_request(lt, overrides=[{**pool, "InstanceType": "t2.micro"}]))
    assert [e["ErrorCode"] for e in odd["Errors"]] == ["InvalidFleetConfiguration"], odd

    large = {"InstanceType": "g5.4xlarge", "AvailabilityZone": "us-east-2a"}
    quota = ec2.create_fleet(**fleet_request(lt, 999, overrides=[large]))
    assert [e["ErrorCode"] for e in quota["Errors"]] == ["MaxSpotInstanceCountExceeded"]
    assert len(ids_of(quota)) == QUOTA // 16
    limit = ec2.create_fleet(**fleet_request(lt, 999, "on-demand", overrides=[large]))
    assert [e["ErrorCode"] for e in limit["Errors"]] == ["VcpuLimitExceeded"]
    assert all(i["Lifecycle"] == "on-demand" for i in limit["Instances"])
    end(quota, limit)

    create = ec2.create_fleet
    assert code(create, **{**fleet_request(lt), "Type": "maintain"}) == "UnsupportedOperation"
    subnet = {"InstanceType": "g5.xlarge", "SubnetId": "subnet-0123456789abcdef0"}
    assert code(create, **fleet_request(lt, overrides=[subnet])) == "InvalidSubnetID.NotFound"
    assert code(create, **fleet_request(lt, version="7")) == (
        "InvalidLaunchTemplateId.VersionNotFound"
    )
    assert code(create, **fleet_request("lt-0123456789abcdef0")) == (
        "InvalidLaunchTemplateId.NotFound"
    )
    assert code(create, **fleet_request(lt, overrides=[pool, pool])) == (
        "InvalidFleetConfiguration"
    )
    filters = [{"Name": "color", "Values": ["red"]}]
    assert code(ec2.describe_instances, Filters=filters) == "InvalidParameterValue"
    assert code(ec2.describe_vpcs) == "InvalidAction"
    stranger = boto3.client("ec2", **{**KEYS, "aws_access_key_id": "stranger"})
    assert code(stranger.describe_subnets) == "AuthFailure"
    forger = boto3.client("ec2", **{**KEYS, "aws_secret_access_key": "forged"})
    assert code(forger.describe_subnets) == "SignatureDoesNotMatch"


def pages_of_instances():
    lt = template("pages")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "batch", "Value": "pages"}]}]
    ids = ids_of(ec2.create_fleet(**fleet_request(lt, 12, TagSpecifications=tags)))
    mine = [{"Name": "tag:batch", "Values": ["pages"]}]
    first = ec2.describe_instances(Filters=mine, MaxResults=5)
    assert len(first["Reservations"]) == 5 and first["NextToken"]
    pages = ec2.get_paginator("describe_instances").paginate(
        Filters=mine, PaginationConfig={"PageSize": 5}
    )
    found = [i["InstanceId"] for p in pages for r in p["Reservations"] for i in r["Instances"]]
    assert sorted(found) == sorted(ids) and len(ids) == 12
    describe = ec2.describe_instances
    assert code(describe, InstanceIds=ids[:1], MaxResults=5) == "InvalidParameterCombination"
    assert code(describe, MaxResults=4) == "InvalidParameterValue"
    ec2.terminate_instances(InstanceIds=ids)


STEPS = [
    region,
    prices,
    templates,
    launch_and_end,
    shutdown_behavior,
    refusals,
    pages_of_instances,
]
for step in STEPS:
    step()
    print("ok", step.__name__, flush=True)
