import purerpc
import jobmaster.jobs.v1.jobs_pb2 as jobmaster_dot_jobs_dot_v1_dot_jobs__pb2
import google.protobuf.timestamp_pb2 as google_dot_protobuf_dot_timestamp__pb2
import google.protobuf.wrappers_pb2 as google_dot_protobuf_dot_wrappers__pb2


class JobServiceServicer(purerpc.Servicer):
    async def Start(self, input_message):
        raise NotImplementedError()

    async def Stop(self, input_message):
        raise NotImplementedError()

    async def Signal(self, input_message):
        raise NotImplementedError()

    async def Pause(self, input_message):
        raise NotImplementedError()

    async def Resume(self, input_message):
        raise NotImplementedError()

    async def Status(self, input_message):
        raise NotImplementedError()

    async def StreamOutput(self, input_message):
        raise NotImplementedError()

    async def Attach(self, input_messages):
        raise NotImplementedError()

    async def FollowOutput(self, input_message):
        raise NotImplementedError()

    async def Wait(self, input_message):
        raise NotImplementedError()

    async def Remove(self, input_message):
        raise NotImplementedError()

    async def List(self, input_message):
        raise NotImplementedError()

    async def Watch(self, input_message):
        raise NotImplementedError()

    async def Backup(self, input_message):
        raise NotImplementedError()

    async def ServerInfo(self, input_message):
        raise NotImplementedError()

    async def Stats(self, input_message):
        raise NotImplementedError()

    async def Drain(self, input_message):
        raise NotImplementedError()

    async def Undrain(self, input_message):
        raise NotImplementedError()

    @property
    def service(self) -> purerpc.Service:
        service_obj = purerpc.Service(
            "jobmaster.jobs.v1.JobService"
        )
        service_obj.add_method(
            "Start",
            self.Start,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobCreateRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobID,
            )
        )
        service_obj.add_method(
            "Stop",
            self.Stop,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        service_obj.add_method(
            "Signal",
            self.Signal,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.SignalRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        service_obj.add_method(
            "Pause",
            self.Pause,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        service_obj.add_method(
            "Resume",
            self.Resume,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        service_obj.add_method(
            "Status",
            self.Status,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        service_obj.add_method(
            "StreamOutput",
            self.StreamOutput,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobOutputResponse,
            )
        )
        service_obj.add_method(
            "Attach",
            self.Attach,
            purerpc.RPCSignature(
                purerpc.Cardinality.STREAM_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.AttachRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.AttachResponse,
            )
        )
        service_obj.add_method(
            "FollowOutput",
            self.FollowOutput,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.FollowOutputRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.OutputChunk,
            )
        )
        service_obj.add_method(
            "Wait",
            self.Wait,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        service_obj.add_method(
            "Remove",
            self.Remove,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.RemoveResponse,
            )
        )
        service_obj.add_method(
            "List",
            self.List,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.ListRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.ListResponse,
            )
        )
        service_obj.add_method(
            "Watch",
            self.Watch,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.WatchRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobEventMessage,
            )
        )
        service_obj.add_method(
            "Backup",
            self.Backup,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.BackupRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.BackupChunk,
            )
        )
        service_obj.add_method(
            "ServerInfo",
            self.ServerInfo,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.ServerInfoRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.ServerInfoResponse,
            )
        )
        service_obj.add_method(
            "Stats",
            self.Stats,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.StatsRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobStats,
            )
        )
        service_obj.add_method(
            "Drain",
            self.Drain,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.DrainRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.Draining,
            )
        )
        service_obj.add_method(
            "Undrain",
            self.Undrain,
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.UndrainRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.UndrainResponse,
            )
        )
        return service_obj


class JobServiceStub:
    def __init__(self, channel):
        self._client = purerpc.Client(
            "jobmaster.jobs.v1.JobService",
            channel
        )
        self.Start = self._client.get_method_stub(
            "Start",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobCreateRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobID,
            )
        )
        self.Stop = self._client.get_method_stub(
            "Stop",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        self.Signal = self._client.get_method_stub(
            "Signal",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.SignalRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        self.Pause = self._client.get_method_stub(
            "Pause",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        self.Resume = self._client.get_method_stub(
            "Resume",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        self.Status = self._client.get_method_stub(
            "Status",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        self.StreamOutput = self._client.get_method_stub(
            "StreamOutput",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobOutputResponse,
            )
        )
        self.Attach = self._client.get_method_stub(
            "Attach",
            purerpc.RPCSignature(
                purerpc.Cardinality.STREAM_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.AttachRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.AttachResponse,
            )
        )
        self.FollowOutput = self._client.get_method_stub(
            "FollowOutput",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.FollowOutputRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.OutputChunk,
            )
        )
        self.Wait = self._client.get_method_stub(
            "Wait",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobResponse,
            )
        )
        self.Remove = self._client.get_method_stub(
            "Remove",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobIDRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.RemoveResponse,
            )
        )
        self.List = self._client.get_method_stub(
            "List",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.ListRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.ListResponse,
            )
        )
        self.Watch = self._client.get_method_stub(
            "Watch",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.WatchRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobEventMessage,
            )
        )
        self.Backup = self._client.get_method_stub(
            "Backup",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.BackupRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.BackupChunk,
            )
        )
        self.ServerInfo = self._client.get_method_stub(
            "ServerInfo",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.ServerInfoRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.ServerInfoResponse,
            )
        )
        self.Stats = self._client.get_method_stub(
            "Stats",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_STREAM,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.StatsRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.JobStats,
            )
        )
        self.Drain = self._client.get_method_stub(
            "Drain",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.DrainRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.Draining,
            )
        )
        self.Undrain = self._client.get_method_stub(
            "Undrain",
            purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.UndrainRequest,
                jobmaster_dot_jobs_dot_v1_dot_jobs__pb2.UndrainResponse,
            )
        )