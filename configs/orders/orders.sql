-- The database of the order service.
CREATE TABLE orders (
    order_id    text PRIMARY KEY,
    customer_id text NOT NULL,
    status      text NOT NULL,
    total       numeric(12, 2) NOT NULL
);

-- Events, written in the transaction of what they tell of. `type` is one of
--   order.{created,updated,cancelled,completed}, inventory.{updated,reserved,released},
--   payment.{processed,failed,refunded}, customer.{registered,updated};
-- `aggregateid` is the order's id (order, payment), the customer's or the product's. Delete rows whenever you like.
CREATE TABLE outbox (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregateid text NOT NULL,
    type        text NOT NULL,
    service     text NOT NULL DEFAULT 'order-service',
    created_at  timestamptz NOT NULL DEFAULT now(),
    payload     jsonb NOT NULL
);
