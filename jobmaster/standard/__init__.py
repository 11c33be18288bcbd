"""Generated code of the standard gRPC services; for the server alone, so that a client may use grpcio's own."""
