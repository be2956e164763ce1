package loops;

import io.confluent.parallelconsumer.PCRetriableException;
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import io.grpc.StatusRuntimeException;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Parallel Consumer with grpc-java: a key stays in order, a thread for each call that is out.
 *
 * <p>What fails is tried again as the library does by default: a second later, for ever.
 */
public final class Parallel {
    public static void main(String[] arguments) throws Exception {
        Settings settings = Settings.parse(arguments);
        var target = new Target(settings);
        var ready = new AtomicBoolean();
        settings.answer(ready);
        var consumer = new KafkaConsumer<>(
                Map.of(
                        "bootstrap.servers", settings.brokers(),
                        "group.id", settings.group(),
                        "auto.offset.reset", "earliest",
                        "enable.auto.commit", false,
                        "fetch.max.wait.ms", 20),
                new ByteArrayDeserializer(),
                new ByteArrayDeserializer());
        ParallelStreamProcessor<byte[], byte[]> processor =
                ParallelStreamProcessor.createEosStreamProcessor(ParallelConsumerOptions.<byte[], byte[]>builder()
                        .consumer(consumer)
                        .ordering(ProcessingOrder.KEY)
                        .maxConcurrency(settings.concurrency())
                        .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
                        .build());
        processor.subscribe(List.of(settings.topic()), new ConsumerRebalanceListener() {
            @Override
            public void onPartitionsRevoked(Collection<TopicPartition> partitions) {}

            @Override
            public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                ready.set(true);
            }
        });
        Settings.onStop(() -> {
            processor.closeDrainFirst();
            target.close();
        });
        processor.poll(context -> {
            var record = context.getSingleConsumerRecord();
            try {
                target.call(record.partition(), record.offset(), record.key(), record.value());
            } catch (StatusRuntimeException error) {
                // Known to it as an expected failure, it writes no stack trace for each.
                throw new PCRetriableException(error);
            }
        });
    }
}
