import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Stream;
import java.util.zip.CRC32C;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.message.LeaderChangeMessage;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.DefaultRecordBatch;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MemoryRecordsBuilder;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.record.internal.SimpleRecord;
import org.apache.kafka.common.utils.internals.BufferSupplier;
import org.apache.kafka.common.utils.internals.CloseableIterator;

/**
 * Writes record batches with Kafka's own classes, and reads batches with them:
 *
 * <pre>
 *   Interop write DIR        writes DIR/NAME.batch for every case below
 *   Interop read DIR TEXTS   reads every DIR/NAME.batch and writes TEXTS/NAME.txt
 * </pre>
 *
 * A text has a line for every batch and every record, with all their fields; the Go tests print the
 * same lines. A batch that Kafka refuses ends the program with its exception.
 */
public final class Interop {
    static final long TIME = 1_700_000_000_000L;

    public static void main(String[] args) throws IOException {
        if (args.length == 2 && args[0].equals("write")) {
            for (Map.Entry<String, ByteBuffer> e : cases().entrySet()) {
                byte[] bytes = new byte[e.getValue().remaining()];
                e.getValue().duplicate().get(bytes);
                Files.write(Path.of(args[1], e.getKey() + ".batch"), bytes);
            }
        } else if (args.length == 3 && args[0].equals("read")) {
            int read = 0;
            try (Stream<Path> files = Files.list(Path.of(args[1]))) {
                for (Path p : (Iterable<Path>) files.sorted()::iterator) {
                    String name = p.getFileName().toString();
                    if (!name.endsWith(".batch")) {
                        continue;
                    }
                    name = name.substring(0, name.length() - ".batch".length());
                    try {
                        Files.writeString(Path.of(args[2], name + ".txt"), text(Files.readAllBytes(p)));
                    } catch (RuntimeException e) {
                        throw new IllegalStateException(name + ": " + e.getMessage(), e);
                    }
                    read++;
                }
            }
            System.out.println("read " + read + " files");
        } else {
            System.err.println("usage: Interop write DIR | Interop read DIR TEXTS");
            System.exit(2);
        }
    }

    // What is written.

    static Map<String, ByteBuffer> cases() {
        Map<String, ByteBuffer> files = new TreeMap<>();
        for (CompressionType type : CompressionType.values()) {
            Compression c = Compression.of(type).build();
            files.put(type.name + "-create", build(c, TimestampType.CREATE_TIME, 0, plain(), everyKind()));
            files.put(type.name + "-append", build(c, TimestampType.LOG_APPEND_TIME, 1000, plain(), everyKind()));
            files.put(type.name + "-random", build(c, TimestampType.CREATE_TIME, 0, plain(), random()));
            if (type != CompressionType.NONE) {
                files.put(type.name + "-large", build(c, TimestampType.CREATE_TIME, 0, plain(), large()));
            }
        }
        for (int level : new int[] {1, 9}) {
            files.put("gzip-level" + level, level(Compression.gzip().level(level).build()));
        }
        for (int level : new int[] {1, 17}) {
            files.put("lz4-level" + level, level(Compression.lz4().level(level).build()));
        }
        for (int level : new int[] {-7, 1, 19, 22}) {
            files.put("zstd-level" + level, level(Compression.zstd().level(level).build()));
        }
        Producer p = new Producer(123_456_789_012L, (short) 7, 41, false);
        Producer q = new Producer(Long.MAX_VALUE, Short.MAX_VALUE, Integer.MAX_VALUE, true);
        files.put("idempotent", build(Compression.NONE, TimestampType.CREATE_TIME, 0, p, everyKind()));
        files.put("transactional", build(Compression.lz4().build(), TimestampType.CREATE_TIME, 0, q, everyKind()));
        files.put("transaction-commit", transaction(ControlRecordType.COMMIT));
        files.put("transaction-abort", transaction(ControlRecordType.ABORT));
        files.put("leader-change", leaderChange());
        files.put("compacted", compacted(true));
        files.put("emptied", compacted(false));
        return files;
    }

    record Producer(long id, short epoch, int sequence, boolean transactional) {}

    static Producer plain() {
        return new Producer(RecordBatch.NO_PRODUCER_ID, RecordBatch.NO_PRODUCER_EPOCH, RecordBatch.NO_SEQUENCE, false);
    }

    static ByteBuffer build(Compression c, TimestampType type, long base, Producer p, List<SimpleRecord> records) {
        ByteBuffer buffer = ByteBuffer.allocate(1024);
        try (MemoryRecordsBuilder b = MemoryRecords.builder(buffer, RecordBatch.MAGIC_VALUE_V2, c, type, base,
                TIME + 5, p.id, p.epoch, p.sequence, p.transactional, base == 0 ? -1 : 3)) {
            records.forEach(b::append);
            return b.build().buffer();
        }
    }

    static ByteBuffer level(Compression c) {
        return build(c, TimestampType.CREATE_TIME, 0, plain(), large());
    }

    /** Null, empty and other keys and values; headers of every kind; times that go back and jump. */
    static List<SimpleRecord> everyKind() {
        List<SimpleRecord> records = new ArrayList<>();
        records.add(record(TIME, "key", "value"));
        records.add(record(TIME + 1, null, "null key"));
        records.add(record(TIME + 2, "null value", null));
        records.add(record(TIME + 3, null, null));
        records.add(record(TIME + 4, "", ""));
        records.add(record(TIME - 100_000, "time", "back by 100 s"));
        records.add(record(0, "time", "1970"));
        records.add(record(TIME * 3, "time", "2131"));
        records.add(record(RecordBatch.NO_TIMESTAMP, "time", "none"));
        records.add(record(TIME, "headers", "of every kind", header("h", "x"), header("null", null),
                header("empty", ""), header("", "empty key"), header("h", "again"), header("\u00fc\u20ac\ud83d\ude00", "UTF-8")));
        Header[] many = new Header[70];
        for (int i = 0; i < many.length; i++) {
            many[i] = header("h" + i, "v" + i);
        }
        records.add(record(TIME, null, "70 headers", many));
        records.add(record(TIME, "k".repeat(64), "v".repeat(8192)));
        return records;
    }

    /** Bytes that no codec makes smaller. */
    static List<SimpleRecord> random() {
        byte[] value = new byte[1500];
        new Random(1).nextBytes(value);
        return List.of(new SimpleRecord(TIME, null, value));
    }

    /** More than one block of every codec: 180 kB. */
    static List<SimpleRecord> large() {
        List<SimpleRecord> records = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            records.add(record(TIME + i, "line " + i, ("this is line " + i + " of twenty lines. ").repeat(300)));
        }
        return records;
    }

    static ByteBuffer transaction(ControlRecordType type) {
        Producer p = new Producer(4000, (short) 2, 0, true);
        ByteBuffer data = build(Compression.zstd().build(), TimestampType.CREATE_TIME, 500, p, everyKind());
        long end = 500 + everyKind().size();
        ByteBuffer marker = MemoryRecords.withEndTransactionMarker(end, TIME + 9, 3, p.id, p.epoch,
                new EndTransactionMarker(type, 17)).buffer();
        return ByteBuffer.allocate(data.remaining() + marker.remaining()).put(data).put(marker).flip();
    }

    static ByteBuffer leaderChange() {
        LeaderChangeMessage m = new LeaderChangeMessage().setLeaderId(1)
                .setVoters(List.of(new LeaderChangeMessage.Voter().setVoterId(1)));
        return MemoryRecords.withLeaderChangeMessage(77, TIME, 3, ByteBuffer.allocate(256), m).buffer();
    }

    /** What compaction leaves: gaps and a delete horizon, or a batch without records. */
    static ByteBuffer compacted(boolean some) {
        Producer p = new Producer(4000, (short) 2, 0, false);
        MemoryRecords before = MemoryRecords.readableRecords(
                build(Compression.gzip().build(), TimestampType.CREATE_TIME, 300, p, everyKind()));
        MemoryRecords.RecordFilter filter = new MemoryRecords.RecordFilter(TIME + 10, 86_400_000) {
            @Override
            protected BatchRetentionResult checkBatchRetention(RecordBatch batch) {
                return new BatchRetentionResult(MemoryRecords.RecordFilter.BatchRetention.RETAIN_EMPTY, false);
            }

            @Override
            protected boolean shouldRetainRecord(RecordBatch batch, Record r) {
                return some && r.offset() % 3 == 2;
            }
        };
        return before.filterTo(filter, ByteBuffer.allocate(1024), BufferSupplier.create(), Integer.MAX_VALUE).outputBuffer().flip();
    }

    static SimpleRecord record(long time, String key, String value, Header... headers) {
        return new SimpleRecord(time, bytes(key), bytes(value), headers);
    }

    static Header header(String key, String value) {
        return new RecordHeader(key, bytes(value));
    }

    static byte[] bytes(String s) {
        return s == null ? null : s.getBytes(StandardCharsets.UTF_8);
    }

    // What is read.

    static String text(byte[] file) {
        StringBuilder s = new StringBuilder();
        MemoryRecords records = MemoryRecords.readableRecords(ByteBuffer.wrap(file));
        for (RecordBatch batch : records.batches()) {
            DefaultRecordBatch b = (DefaultRecordBatch) batch;
            b.ensureValid();
            s.append(batchText(b));
            List<String> lines = lines(b, b.iterator());
            check(lines.equals(lines(b, b.streamingIterator(BufferSupplier.create()))), "streaming gives other records");
            int count = 0;
            try (CloseableIterator<Record> keys = b.skipKeyValueIterator(BufferSupplier.create())) {
                for (; keys.hasNext(); keys.next()) {
                    count++;
                }
            }
            check(lines.size() == count, "skipping gives " + count + " records");
            lines.forEach(s::append);
        }
        check(records.validBytes() == file.length, records.validBytes() + " of " + file.length + " bytes are batches");
        return s.toString();
    }

    static void check(boolean ok, String what) {
        if (!ok) {
            throw new IllegalStateException(what);
        }
    }

    static String batchText(DefaultRecordBatch b) {
        String horizon = b.deleteHorizonMs().isPresent() ? "" + b.deleteHorizonMs().getAsLong() : "none";
        return "batch offsets=" + b.baseOffset() + ".." + b.lastOffset() + " count=" + b.countOrNull()
                + " epoch=" + b.partitionLeaderEpoch() + " codec=" + b.compressionType().name
                + " type=" + b.timestampType().name + " base=" + b.baseTimestamp() + " max=" + b.maxTimestamp()
                + " producer=" + b.producerId() + "/" + b.producerEpoch() + "/" + b.baseSequence()
                + " transactional=" + b.isTransactional() + " control=" + b.isControlBatch()
                + " horizon=" + horizon + String.format(" size=%d crc=%08x\n", b.sizeInBytes(), b.checksum());
    }

    static List<String> lines(DefaultRecordBatch b, Iterator<Record> records) {
        List<String> lines = new ArrayList<>();
        while (records.hasNext()) {
            Record r = records.next();
            r.ensureValid();
            List<String> headers = new ArrayList<>();
            for (Header h : r.headers()) {
                headers.add(show(bytes(h.key())) + ":" + show(h.value()));
            }
            String line = "record offset=" + r.offset() + " time=" + r.timestamp() + " key=" + show(copy(r.key()))
                    + " value=" + show(copy(r.value())) + " headers=[" + String.join(" ", headers) + "]";
            lines.add(line + (b.isControlBatch() ? controlText(r) : "") + "\n");
        }
        return lines;
    }

    static String controlText(Record r) {
        ControlRecordType type = ControlRecordType.parse(r.key());
        if (type != ControlRecordType.ABORT && type != ControlRecordType.COMMIT) {
            return " control=" + type.type();
        }
        return " control=" + type.type() + " coordinator=" + EndTransactionMarker.deserialize(r).coordinatorEpoch();
    }

    static byte[] copy(ByteBuffer b) {
        if (b == null) {
            return null;
        }
        byte[] bytes = new byte[b.remaining()];
        b.duplicate().get(bytes);
        return bytes;
    }

    /** Bytes in hex, or by length and CRC-32C where they are many. */
    static String show(byte[] b) {
        if (b == null) {
            return "null";
        }
        if (b.length <= 32) {
            return '"' + HexFormat.of().formatHex(b) + '"';
        }
        CRC32C crc = new CRC32C();
        crc.update(b);
        return String.format("%d#%08x", b.length, crc.getValue());
    }
}
