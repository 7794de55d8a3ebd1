"""Apps, functions and classes: what `modal deploy` and `modal run` create, and what lookups find.

A deployment is staged: nothing that runs changes before AppPublish, which is when the scheduler hears.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from modal_proto import api_pb2

from compat_tests.modal_emulator.objects import App, FunctionRecord, new_id
from compat_tests.modal_emulator.rpc import Caller, not_found

OpenWeb = Callable[[FunctionRecord, str], Awaitable[str]]
DescribeObject = Callable[[str], api_pb2.Object]


class Fleet(Protocol):
    """What publishing and stopping an app asks of the scheduler."""

    def published(self, app: App, functions: list[FunctionRecord]) -> None: ...

    async def stop_app(self, app: App) -> None: ...


@dataclass(slots=True)
class AppService:
    """The RPCs about apps, and the registry they fill."""

    open_web: OpenWeb
    describe_object: DescribeObject
    fleet: Fleet
    apps: dict[str, App] = field(default_factory=dict)
    functions: dict[str, FunctionRecord] = field(default_factory=dict)
    classes: dict[str, api_pb2.ClassHandleMetadata] = field(default_factory=dict)

    def deployed(self, name: str) -> App:
        for app in self.apps.values():
            if app.name == name and app.state == api_pb2.APP_STATE_DEPLOYED:
                return app
        raise not_found(f"App {name!r}")

    def function(self, function_id: str) -> FunctionRecord:
        if function_id not in self.functions:
            raise not_found(f"Function {function_id}")
        return self.functions[function_id]

    def layout(self, app: App) -> api_pb2.AppLayout:
        """Everything that a container needs to know of its app: functions, classes, dependencies."""
        return api_pb2.AppLayout(
            objects=list(self._objects(app)), function_ids=app.function_ids, class_ids=app.class_ids
        )

    def _objects(self, app: App) -> Iterator[api_pb2.Object]:
        dependencies: set[str] = set()
        for function_id in app.function_ids.values():
            record = self.functions[function_id]
            yield api_pb2.Object(object_id=function_id, function_handle_metadata=record.handle)
            if record.definition:
                dependencies |= {each.object_id for each in record.definition.object_dependencies}
        for class_id in app.class_ids.values():
            yield api_pb2.Object(object_id=class_id, class_handle_metadata=self.classes[class_id])
        for object_id in sorted(dependencies - set(app.function_ids.values())):
            yield self.describe_object(object_id)

    # Apps

    async def AppGetByDeploymentName(
        self, request: api_pb2.AppGetByDeploymentNameRequest, _: Caller
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        found = [each for each in self.apps.values() if each.name == request.name and each.version]
        live = [each for each in found if each.state == api_pb2.APP_STATE_DEPLOYED]
        return api_pb2.AppGetByDeploymentNameResponse(app_id=live[0].app_id if live else "")

    async def AppGetLayout(
        self, request: api_pb2.AppGetLayoutRequest, _: Caller
    ) -> api_pb2.AppGetLayoutResponse:
        return api_pb2.AppGetLayoutResponse(app_layout=self.layout(self.apps[request.app_id]))

    async def AppCreate(self, request: api_pb2.AppCreateRequest, _: Caller) -> api_pb2.AppCreateResponse:
        app = App(app_id=new_id("ap"), name=request.description, state=request.app_state)
        self.apps[app.app_id] = app
        page = f"http://localhost/apps/{app.app_id}"
        return api_pb2.AppCreateResponse(app_id=app.app_id, app_page_url=page, app_logs_url=page)

    async def AppHeartbeat(self, request: api_pb2.AppHeartbeatRequest, _: Caller) -> None:
        return None

    async def AppClientDisconnect(self, request: api_pb2.AppClientDisconnectRequest, _: Caller) -> None:
        """The end of `modal run`; a deployed app does not care whether its deployer is still there."""
        app = self.apps[request.app_id]
        if app.state in (api_pb2.APP_STATE_EPHEMERAL, api_pb2.APP_STATE_INITIALIZING):
            await self._stop(app)

    async def AppStop(self, request: api_pb2.AppStopRequest, _: Caller) -> None:
        await self._stop(self.apps[request.app_id])

    async def _stop(self, app: App) -> None:
        app.state = api_pb2.APP_STATE_STOPPED
        await self.fleet.stop_app(app)

    async def AppList(self, request: api_pb2.AppListRequest, _: Caller) -> api_pb2.AppListResponse:
        items = [
            api_pb2.AppListResponse.AppListItem(
                app_id=app.app_id,
                description=app.name,
                name=app.name,
                state=api_pb2.AppState.ValueType(app.state),
            )
            for app in self.apps.values()
        ]
        return api_pb2.AppListResponse(apps=items)

    async def AppPublish(self, request: api_pb2.AppPublishRequest, _: Caller) -> api_pb2.AppPublishResponse:
        app = self.apps[request.app_id]
        app.name = request.name or app.name
        app.state = request.app_state or app.state
        app.function_ids, app.class_ids = dict(request.function_ids), dict(request.class_ids)
        for function_id in app.function_ids.values():
            record = self.functions[function_id]
            record.definition, record.staged = record.staged or record.definition, None
        app.version += 1
        self.fleet.published(app, [self.functions[each] for each in app.function_ids.values()])
        return api_pb2.AppPublishResponse(url=f"http://localhost/apps/{app.app_id}", deployed_at=time.time())

    # Functions

    async def FunctionPrecreate(
        self, request: api_pb2.FunctionPrecreateRequest, _: Caller
    ) -> api_pb2.FunctionPrecreateResponse:
        record = self.functions.get(request.existing_function_id)
        if record is None:
            handle = api_pb2.FunctionHandleMetadata(
                function_name=request.function_name, app_id=request.app_id
            )
            record = FunctionRecord(new_id("fu"), self.apps[request.app_id], handle)
            self.functions[record.function_id] = record
        await self._describe(record, request)
        return api_pb2.FunctionPrecreateResponse(
            function_id=record.function_id, handle_metadata=record.handle
        )

    async def FunctionCreate(
        self, request: api_pb2.FunctionCreateRequest, _: Caller
    ) -> api_pb2.FunctionCreateResponse:
        record = self.functions[request.existing_function_id]
        function = request.function
        if request.HasField("function_data"):
            function = request.function_data.ranked_functions[0].function
        record.staged = function
        await self._describe(record, function)
        ranked = api_pb2.FunctionData.RankedFunction(rank=0, function=function)
        return api_pb2.FunctionCreateResponse(
            function_id=record.function_id,
            function=function,
            function_data=api_pb2.FunctionData(ranked_functions=[ranked]),
            handle_metadata=record.handle,
        )

    async def _describe(
        self, record: FunctionRecord, source: api_pb2.FunctionPrecreateRequest | api_pb2.Function
    ) -> None:
        """Fill in what clients are told of a function; its web URLs stay the same through redeploys."""
        handle = record.handle
        handle.definition_id = new_id("de")
        handle.function_type = source.function_type
        handle.function_schema.CopyFrom(source.function_schema)
        handle.supported_input_formats[:] = source.supported_input_formats
        handle.supported_output_formats[:] = source.supported_output_formats
        if isinstance(source, api_pb2.Function):
            handle.class_parameter_info.CopyFrom(source.class_parameter_info)
        if source.webhook_config.type:
            handle.web_url = await self.open_web(record, "")
        for name, method in source.method_definitions.items():
            handle.method_handle_metadata[name].CopyFrom(
                api_pb2.FunctionHandleMetadata(
                    app_id=record.app.app_id,
                    function_name=method.function_name,
                    function_type=method.function_type,
                    use_method_name=name,
                    is_method=True,
                    definition_id=handle.definition_id,
                    web_url=await self.open_web(record, name) if method.webhook_config.type else "",
                    function_schema=method.function_schema,
                    supported_input_formats=method.supported_input_formats,
                    supported_output_formats=method.supported_output_formats,
                )
            )

    async def FunctionBindParams(
        self, request: api_pb2.FunctionBindParamsRequest, _: Caller
    ) -> api_pb2.FunctionBindParamsResponse:
        """The same parameters and options always give the same function, and so the same containers."""
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        bound_id = f"fu-{digest[:20]}"
        base = self.function(request.function_id)
        self.functions.setdefault(
            bound_id,
            FunctionRecord(
                bound_id,
                base.app,
                base.handle,
                base=base.base or base,
                serialized_params=request.serialized_params,
                options=request.function_options,
            ),
        )
        return api_pb2.FunctionBindParamsResponse(bound_function_id=bound_id, handle_metadata=base.handle)

    async def FunctionGet(
        self, request: api_pb2.FunctionGetRequest, _: Caller
    ) -> api_pb2.FunctionGetResponse:
        app = self.deployed(request.app_name)
        if request.object_tag not in app.function_ids:
            raise not_found(f"Function {request.object_tag!r}")
        record = self.functions[app.function_ids[request.object_tag]]
        ranked = api_pb2.FunctionData.RankedFunction(rank=0, function=record.published())
        return api_pb2.FunctionGetResponse(
            function_id=record.function_id,
            handle_metadata=record.handle,
            function=api_pb2.FunctionData(ranked_functions=[ranked]),
        )

    # Classes

    async def ClassCreate(
        self, request: api_pb2.ClassCreateRequest, _: Caller
    ) -> api_pb2.ClassCreateResponse:
        class_id = request.existing_class_id or new_id("cs")
        self.classes[class_id] = api_pb2.ClassHandleMetadata()
        return api_pb2.ClassCreateResponse(class_id=class_id, handle_metadata=self.classes[class_id])

    async def ClassGet(self, request: api_pb2.ClassGetRequest, _: Caller) -> api_pb2.ClassGetResponse:
        app = self.deployed(request.app_name)
        if request.object_tag not in app.class_ids:
            raise not_found(f"Class {request.object_tag!r}")
        class_id = app.class_ids[request.object_tag]
        return api_pb2.ClassGetResponse(class_id=class_id, handle_metadata=self.classes[class_id])
