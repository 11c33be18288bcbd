import purerpc
import jobmaster.jobs.v1.jobs_pb2 as jobmaster_dot_jobs_dot_v1_dot_jobs__pb2
import google.protobuf.timestamp_pb2 as google_dot_protobuf_dot_timestamp__pb2


class JobServiceServicer(purerpc.Servicer):
    async def Start(self, input_message):
        raise NotImplementedError()

    async def Stop(self, input_message):
        raise NotImplementedError()

    async def Status(self, input_message):
        raise NotImplementedError()

    async def StreamOutput(self, input_message):
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