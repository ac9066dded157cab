package tidegate.bench;

import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.nio.ByteOrder;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Instant;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * (f) The reduced gate on Kafka Streams: one processor for the three inputs, state in RocksDB, exactly once (EOS v2).
 *
 * <p>The rules are those of {@code tests/benchmarks/reduced.py}, where they are defined. Arguments: bootstrap servers,
 * topic prefix, directory, partitions.
 */
public final class ReducedGate implements Processor<String, byte[], String, byte[]> {
    private static final ObjectMapper JSON =
            JsonMapper.builder()
                    .enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS)
                    .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
                    .build();
    private static final String[] TOPICS = {"pnl", "signals", "fills"};
    private static final BigDecimal KEPT_MIN = new BigDecimal("0.95");
    private static final BigDecimal TRADE_RISK_MAX = new BigDecimal("0.02");
    private static final BigDecimal LEVERAGE_MAX = new BigDecimal("5");

    /** What is known of an account; public fields are its JSON. */
    public static final class Account {
        public Long sequence;
        public BigDecimal equity;
        public BigDecimal base;
        public boolean locked;
        public BigDecimal position = BigDecimal.ZERO;
        public Map<String, BigDecimal> open = new LinkedHashMap<>();
    }

    /** Fields of the inputs that the rules use. */
    public record Pnl(long sequence, BigDecimal equity) {}

    public record Signal(
            String signal_id,
            String strategy_id,
            String instrument,
            String side,
            BigDecimal quantity,
            BigDecimal price,
            BigDecimal stop_loss) {}

    public record Fill(String fill_id, String order_id, String side, BigDecimal quantity) {}

    private final Progress progress;
    private final String prefix;
    private ProcessorContext<String, byte[]> context;
    private KeyValueStore<String, Account> accounts;
    private KeyValueStore<String, String> ids;

    private ReducedGate(String prefix, Progress progress) {
        this.prefix = prefix;
        this.progress = progress;
    }

    @Override
    public void init(ProcessorContext<String, byte[]> given) {
        context = given;
        accounts = given.getStateStore("accounts");
        ids = given.getStateStore("ids");
    }

    @Override
    public void process(Record<String, byte[]> record) {
        RecordMetadata place = context.recordMetadata().orElseThrow();
        String topic = place.topic().substring(prefix.length());
        try {
            switch (topic) {
                case "pnl" -> mark(record);
                case "signals" -> decide(record);
                default -> fill(record);
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        progress.set(topic, place.partition(), place.offset() + 1);
    }

    private Account accountOf(String accountId) {
        Account held = accounts.get(accountId);
        return held == null ? new Account() : held;
    }

    private void mark(Record<String, byte[]> record) throws IOException {
        Pnl update = JSON.readValue(record.value(), Pnl.class);
        String accountId = record.key();
        Account account = accountOf(accountId);
        if (account.sequence != null && update.sequence() <= account.sequence) {
            return;
        }
        account.sequence = update.sequence();
        account.equity = update.equity();
        if (account.base == null) {
            account.base = update.equity();
        }
        if (!account.locked && update.equity().compareTo(KEPT_MIN.multiply(account.base)) <= 0) {
            account.locked = true;
            ObjectNode value = JSON.createObjectNode();
            value.put("account_id", accountId);
            value.put("equity", plain(account.equity));
            value.put("base", plain(account.base));
            value.put("locked_at", time(record.timestamp()));
            send("account-locked", record, value);
        }
        accounts.put(accountId, account);
    }

    private void decide(Record<String, byte[]> record) throws IOException {
        Signal signal = JSON.readValue(record.value(), Signal.class);
        String accountId = record.key();
        String id = "signal/" + accountId + "/" + signal.signal_id();
        if (ids.get(id) != null) {
            return;
        }
        Account account = accountOf(accountId);
        String code = refusal(account, signal);
        ObjectNode value = JSON.createObjectNode();
        value.put("signal_id", signal.signal_id());
        value.put("account_id", accountId);
        value.put("strategy_id", signal.strategy_id());
        value.put("instrument", signal.instrument());
        if (code != null) {
            value.put("code", code);
            value.put("decided_at", time(record.timestamp()));
            ids.put(id, signal.signal_id());
            send("rejected-signals", record, value);
            return;
        }
        String orderId = orderId(accountId, signal.signal_id());
        value.put("side", signal.side());
        value.put("quantity", plain(signal.quantity()));
        value.put("price", plain(signal.price()));
        value.put("stop_loss", plain(signal.stop_loss()));
        value.put("order_id", orderId);
        value.put("decided_at", time(record.timestamp()));
        account.open.put(orderId, signal.quantity());
        accounts.put(accountId, account);
        ids.put(id, orderId);
        send("approved-orders", record, value);
    }

    private static String refusal(Account account, Signal signal) {
        if (account.locked) {
            return "ACCOUNT_LOCKED";
        }
        if (account.equity == null) {
            return "RISK_DATA_MISSING";
        }
        BigDecimal risk = signal.quantity().multiply(signal.price().subtract(signal.stop_loss()).abs());
        if (risk.compareTo(TRADE_RISK_MAX.multiply(account.equity)) > 0) {
            return "TRADE_RISK_EXCEEDED";
        }
        BigDecimal quantity = account.position.abs().add(signal.quantity());
        for (BigDecimal open : account.open.values()) {
            quantity = quantity.add(open);
        }
        boolean geared = quantity.multiply(signal.price()).compareTo(LEVERAGE_MAX.multiply(account.equity)) > 0;
        return geared ? "LEVERAGE_EXCEEDED" : null;
    }

    private void fill(Record<String, byte[]> record) throws IOException {
        Fill fill = JSON.readValue(record.value(), Fill.class);
        String accountId = record.key();
        String id = "fill/" + accountId + "/" + fill.fill_id();
        if (ids.get(id) != null) {
            return;
        }
        Account account = accountOf(accountId);
        boolean bought = fill.side().equals("buy");
        account.position = account.position.add(bought ? fill.quantity() : fill.quantity().negate());
        account.open.remove(fill.order_id());
        accounts.put(accountId, account);
        ids.put(id, fill.fill_id());
    }

    private void send(String topic, Record<String, byte[]> record, JsonNode value) throws IOException {
        context.forward(record.withValue(JSON.writeValueAsBytes(value)), topic);
    }

    private static String plain(BigDecimal amount) {
        return amount.signum() == 0 ? "0" : amount.stripTrailingZeros().toPlainString();
    }

    private static String time(long ms) {
        return Instant.ofEpochMilli(ms).toString();
    }

    private static String orderId(String accountId, String signalId) {
        try {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            byte[] hash = digest.digest((accountId + "\0" + signalId).getBytes(StandardCharsets.UTF_8));
            return "o-" + HexFormat.of().formatHex(hash, 0, 16);
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);
        }
    }

    /** Next offsets by topic and partition, in the file that the load maps too (tests/benchmarks/progress.py). */
    private static final class Progress {
        private final MappedByteBuffer buffer;
        private final int partitions;

        Progress(String path, int count) throws IOException {
            partitions = count;
            try (RandomAccessFile file = new RandomAccessFile(path, "rw")) {
                buffer = file.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, 8L * TOPICS.length * count);
            }
            buffer.order(ByteOrder.LITTLE_ENDIAN);
        }

        void set(String topic, int partition, long position) {
            int number = topic.equals(TOPICS[0]) ? 0 : topic.equals(TOPICS[1]) ? 1 : 2;
            buffer.putLong(8 * (number * partitions + partition), position);
        }
    }

    private static Serde<Account> accountSerde() {
        return Serdes.serdeFrom(
                (topic, account) -> {
                    try {
                        return account == null ? null : JSON.writeValueAsBytes(account);
                    } catch (IOException error) {
                        throw new UncheckedIOException(error);
                    }
                },
                (topic, bytes) -> {
                    try {
                        return bytes == null ? null : JSON.readValue(bytes, Account.class);
                    } catch (IOException error) {
                        throw new UncheckedIOException(error);
                    }
                });
    }

    private static Topology topology(String prefix, Progress progress) {
        Topology topology = new Topology();
        String[] inputs = {prefix + TOPICS[0], prefix + TOPICS[1], prefix + TOPICS[2]};
        topology.addSource("inputs", new StringDeserializer(), new ByteArrayDeserializer(), inputs);
        topology.addProcessor("gate", () -> new ReducedGate(prefix, progress), "inputs");
        topology.addStateStore(
                Stores.keyValueStoreBuilder(
                                Stores.persistentKeyValueStore("accounts"), Serdes.String(), accountSerde())
                        .withCachingEnabled(),
                "gate");
        topology.addStateStore(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("ids"), Serdes.String(), Serdes.String())
                        .withCachingEnabled(),
                "gate");
        for (String output : new String[] {"approved-orders", "rejected-signals", "account-locked"}) {
            topology.addSink(output, prefix + output, new StringSerializer(), new ByteArraySerializer(), "gate");
        }
        return topology;
    }

    public static void main(String[] arguments) throws Exception {
        String prefix = arguments[1];
        String directory = arguments[2];
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, prefix + "kafka-streams");
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, directory + "/kafka-streams");
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        properties.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64 * 1024 * 1024);
        properties.put(StreamsConfig.producerPrefix("batch.size"), 256 * 1024);
        properties.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        Progress progress = new Progress(directory + "/progress", Integer.parseInt(arguments[3]));
        KafkaStreams streams = new KafkaStreams(topology(prefix, progress), properties);
        CountDownLatch stopped = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(
                error -> {
                    error.printStackTrace();
                    stopped.countDown();
                    return StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
                });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
        stopped.await();
        System.exit(1);
    }
}
