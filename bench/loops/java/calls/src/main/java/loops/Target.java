package loops;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.concurrent.TimeUnit;

/** The method that every event is sent to, its bytes as they are: no loop pays for a codec. */
public final class Target {
    /** Of one call, as Pelton's default. */
    private static final long TIMEOUT_S = 10;

    private static final CallOptions.Key<Metadata> POSITION = CallOptions.Key.create("position");
    private static final Metadata.Key<String> PARTITION =
            Metadata.Key.of("pelton-partition", Metadata.ASCII_STRING_MARSHALLER);
    private static final Metadata.Key<String> OFFSET =
            Metadata.Key.of("pelton-offset", Metadata.ASCII_STRING_MARSHALLER);
    private static final Metadata.Key<byte[]> KEY =
            Metadata.Key.of("pelton-key-bin", Metadata.BINARY_BYTE_MARSHALLER);

    private final ManagedChannel connection;
    private final Channel channel;
    private final MethodDescriptor<byte[], byte[]> method;

    public Target(Settings settings) {
        connection = Grpc.newChannelBuilder(settings.target(), InsecureChannelCredentials.create())
                // What a callback does here is short; another thread for each answer would cost more.
                .directExecutor()
                .build();
        channel = io.grpc.ClientInterceptors.intercept(connection, new WithPosition());
        method = MethodDescriptor.<byte[], byte[]>newBuilder()
                .setType(MethodDescriptor.MethodType.UNARY)
                .setFullMethodName(settings.method().substring(1))
                .setRequestMarshaller(new Bytes())
                .setResponseMarshaller(new Bytes())
                .build();
    }

    /** Sends one event and waits for the answer; a StatusRuntimeException is the error. */
    public void call(int partition, long offset, byte[] key, byte[] value) {
        ClientCalls.blockingUnaryCall(channel, method, options(partition, offset, key), value);
    }

    /** Sends one event; {@code done} hears how it ended. */
    public void call(int partition, long offset, byte[] key, byte[] value, StreamObserver<byte[]> done) {
        ClientCalls.asyncUnaryCall(channel.newCall(method, options(partition, offset, key)), value, done);
    }

    public void close() {
        connection.shutdownNow();
    }

    private static CallOptions options(int partition, long offset, byte[] key) {
        var position = new Metadata();
        position.put(PARTITION, Integer.toString(partition));
        position.put(OFFSET, Long.toString(offset));
        position.put(KEY, key);
        return CallOptions.DEFAULT
                .withOption(POSITION, position)
                .withDeadlineAfter(TIMEOUT_S, TimeUnit.SECONDS);
    }

    /** Where the event stands in the log goes along as metadata. */
    private static final class WithPosition implements ClientInterceptor {
        @Override
        public <Q, A> ClientCall<Q, A> interceptCall(
                MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
            return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
                @Override
                public void start(Listener<A> listener, Metadata headers) {
                    headers.merge(options.getOption(POSITION));
                    super.start(listener, headers);
                }
            };
        }
    }

    private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
        @Override
        public InputStream stream(byte[] value) {
            return new ByteArrayInputStream(value);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try (stream) {
                return stream.readAllBytes();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }
}
