"""Secrets and the one environment, and what it means to create an object by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from grpclib import Status
from modal_proto import api_pb2

from compat_tests.modal_emulator.objects import new_id
from compat_tests.modal_emulator.rpc import Caller, RPCError, not_found

IMAGE_BUILDER_VERSION = "2026.10"
CREATING = (
    api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS,
)
ANONYMOUS = (
    api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
    api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
)


def refuse_existing(kind: str, name: str, creation_type: int) -> None:
    if creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
        raise RPCError(Status.ALREADY_EXISTS, f"{kind} {name!r} already exists")


class EnvironmentService:
    async def ClientHello(self, _request: object, _: Caller) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse(image_builder_version=IMAGE_BUILDER_VERSION)

    async def EnvironmentGetOrCreate(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, _: Caller
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        name = request.deployment_name or "main"
        settings = api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER_VERSION)
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=f"en-{name}", metadata=api_pb2.EnvironmentMetadata(name=name, settings=settings)
        )


@dataclass(slots=True)
class SecretService:
    names: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)

    def create(self, name: str, values: dict[str, str]) -> str:
        """Store a secret under `name` (or none, for one that belongs to an app); overwrites."""
        secret_id = (name and self.names.get(name)) or new_id("st")
        if name:
            self.names[name] = secret_id
        self.values[secret_id] = dict(values)
        return secret_id

    async def SecretGetOrCreate(
        self, request: api_pb2.SecretGetOrCreateRequest, _: Caller
    ) -> api_pb2.SecretGetOrCreateResponse:
        name, creation_type = request.deployment_name, request.object_creation_type
        if creation_type in ANONYMOUS:
            secret_id = self.create("", dict(request.env_dict))
        elif name in self.names:
            refuse_existing("Secret", name, creation_type)
            secret_id = self.names[name]
            if creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
                self.create(name, dict(request.env_dict))
        elif creation_type in CREATING:
            secret_id = self.create(name, dict(request.env_dict))
        else:
            raise not_found(f"Secret {name!r}")
        missing = sorted(set(request.required_keys) - self.values[secret_id].keys())
        if missing:
            raise RPCError(
                Status.FAILED_PRECONDITION,
                f"Secret {name!r} is missing required key(s): {', '.join(missing)}",
            )
        metadata = api_pb2.SecretMetadata(name=name, keys=sorted(self.values[secret_id]))
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id, metadata=metadata)

    async def SecretList(self, request: api_pb2.SecretListRequest, _: Caller) -> api_pb2.SecretListResponse:
        items = [
            api_pb2.SecretListItem(
                label=name, secret_id=secret_id, metadata=api_pb2.SecretMetadata(name=name)
            )
            for name, secret_id in self.names.items()
        ]
        return api_pb2.SecretListResponse(items=items)
