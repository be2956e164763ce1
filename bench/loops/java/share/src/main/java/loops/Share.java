package loops;

import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * A share group with grpc-java: no order. Each of a few consumers takes a batch, calls the target with all of it
 * at once, and acknowledges each event when its batch is through; the others read and call meanwhile.
 *
 * <p>What fails is released, and the broker delivers it again at once, five times in all, and then drops it.
 */
public final class Share {
    /** While one waits for the last answer of its batch, the other one calls. */
    private static final int CONSUMERS = 2;

    private static final Duration POLL = Duration.ofMillis(100);

    public static void main(String[] arguments) throws Exception {
        Settings settings = Settings.parse(arguments);
        startAtTheBeginning(settings);
        var target = new Target(settings);
        var ready = new AtomicBoolean();
        settings.answer(ready);
        var stopping = new AtomicBoolean();
        var threads = new ArrayList<Thread>();
        for (int number = 0; number < CONSUMERS; number++) {
            var thread = new Thread(() -> consume(settings, target, ready, stopping), "consumer-" + number);
            thread.setUncaughtExceptionHandler((where, error) -> {
                error.printStackTrace();
                Runtime.getRuntime().halt(1);
            });
            thread.start();
            threads.add(thread);
        }
        Settings.onStop(() -> {
            stopping.set(true);
            for (Thread thread : threads) {
                try {
                    thread.join();
                } catch (InterruptedException error) {
                    throw new IllegalStateException(error);
                }
            }
            target.close();
        });
    }

    private static void consume(Settings settings, Target target, AtomicBoolean ready, AtomicBoolean stopping) {
        try (var consumer = new KafkaShareConsumer<>(
                Map.of(
                        "bootstrap.servers", settings.brokers(),
                        "group.id", settings.group(),
                        "share.acknowledgement.mode", "explicit",
                        "max.poll.records", settings.concurrency() / CONSUMERS,
                        "fetch.max.wait.ms", 20),
                new ByteArrayDeserializer(),
                new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(settings.topic()));
            while (!stopping.get()) {
                var records = new ArrayList<ConsumerRecord<byte[], byte[]>>();
                consumer.poll(POLL).forEach(records::add);
                ready.set(true);
                boolean[] taken = call(target, records);
                for (int number = 0; number < taken.length; number++) {
                    var verdict = taken[number] ? AcknowledgeType.ACCEPT : AcknowledgeType.RELEASE;
                    consumer.acknowledge(records.get(number), verdict);
                }
                if (taken.length > 0) {
                    consumer.commitAsync();
                }
            }
            consumer.commitSync();
        } catch (WakeupException | InterruptedException stopped) {
            throw new IllegalStateException(stopped);
        }
    }

    /** All at once; whether each was taken, when all have been answered. */
    private static boolean[] call(Target target, List<ConsumerRecord<byte[], byte[]>> records)
            throws InterruptedException {
        var taken = new boolean[records.size()];
        var open = new CountDownLatch(records.size());
        for (int number = 0; number < taken.length; number++) {
            int at = number;
            var record = records.get(number);
            target.call(record.partition(), record.offset(), record.key(), record.value(), new StreamObserver<>() {
                @Override
                public void onNext(byte[] answer) {
                    taken[at] = true;
                }

                @Override
                public void onError(Throwable error) {
                    taken[at] = false;
                    open.countDown();
                }

                @Override
                public void onCompleted() {
                    open.countDown();
                }
            });
        }
        open.await();
        return taken;
    }

    /** A share group begins at the end of its topics, and only the broker can be told otherwise. */
    private static void startAtTheBeginning(Settings settings) throws Exception {
        try (var admin = Admin.create(Map.<String, Object>of("bootstrap.servers", settings.brokers()))) {
            var group = new ConfigResource(ConfigResource.Type.GROUP, settings.group());
            var earliest = new ConfigEntry("share.auto.offset.reset", "earliest");
            admin.incrementalAlterConfigs(
                            Map.of(group, List.of(new AlterConfigOp(earliest, AlterConfigOp.OpType.SET))))
                    .all()
                    .get();
        }
    }
}
