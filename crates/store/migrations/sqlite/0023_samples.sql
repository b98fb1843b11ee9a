-- The state of the server every minute, for the charts of operators.
CREATE TABLE samples (
    at              BIGINT PRIMARY KEY,
    environments    BIGINT NOT NULL,
    queued          BIGINT NOT NULL,
    free_memory_mib BIGINT NOT NULL,
    load            DOUBLE PRECISION NOT NULL,
    starts          BIGINT NOT NULL,
    failed_starts   BIGINT NOT NULL,
    wait_p95_millis BIGINT
);
