"""Images are not built: containers run in the emulator's own Python, and an image is what it declares.

Of its commands, `ENV` reaches the containers' environment and `COPY` their source tree; the rest is only
recorded, so that a test can see what would have been installed.
"""

from __future__ import annotations

import hashlib
import platform
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from modal_proto import api_pb2

from compat_tests.modal_emulator.rpc import Caller
from compat_tests.modal_emulator.storage import IMAGE_BUILDER_VERSION


@dataclass(slots=True)
class ImageService:
    images: dict[str, api_pb2.Image] = field(default_factory=dict)

    def layers(self, image_id: str) -> Iterator[api_pb2.Image]:
        """The image's layers, base first."""
        image = self.images.get(image_id)
        if image is None:
            return
        for base in image.base_images:
            yield from self.layers(base.image_id)
        yield image

    def commands(self, image_id: str) -> list[str]:
        return [command for layer in self.layers(image_id) for command in layer.dockerfile_commands]

    def environment(self, image_id: str) -> dict[str, str]:
        environment: dict[str, str] = {}
        for command in self.commands(image_id):
            if command.startswith("ENV "):
                for assignment in shlex.split(command[len("ENV ") :]):
                    name, _, value = assignment.partition("=")
                    environment[name] = value
        environment.pop("PATH", None)  # a path inside the image that was never built
        return environment

    def copied_mounts(self, image_id: str) -> Iterator[tuple[str, str]]:
        """(mount id, destination) of what `add_local_*(copy=True)` put into the image."""
        for layer in self.layers(image_id):
            for command in layer.dockerfile_commands:
                if layer.context_mount_id and command.startswith("COPY . "):
                    yield layer.context_mount_id, command[len("COPY . ") :]

    async def ImageGetOrCreate(
        self, request: api_pb2.ImageGetOrCreateRequest, _: Caller
    ) -> api_pb2.ImageGetOrCreateResponse:
        digest = hashlib.sha256(request.image.SerializeToString(deterministic=True)).hexdigest()
        image_id = f"im-{digest[:20]}"
        self.images[image_id] = request.image
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image_id,
            result=api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS),
            metadata=api_pb2.ImageMetadata(
                python_version_info=f"Python {platform.python_version()}",
                image_builder_version=IMAGE_BUILDER_VERSION,
            ),
        )
