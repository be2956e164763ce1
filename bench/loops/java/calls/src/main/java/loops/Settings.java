package loops;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.concurrent.atomic.AtomicBoolean;

/** What a loop is told, the same for every loop: {@code NAME=VALUE} arguments. */
public record Settings(
        String brokers, String topic, String group, String target, String method, int concurrency, int httpPort) {

    public static Settings parse(String[] arguments) {
        var given = new java.util.HashMap<String, String>();
        for (String argument : arguments) {
            String[] parts = argument.split("=", 2);
            given.put(parts[0], parts[1]);
        }
        return new Settings(
                given.get("brokers"),
                given.get("topic"),
                given.get("group"),
                given.get("target"),
                given.get("method"),
                Integer.parseInt(given.get("concurrency")),
                Integer.parseInt(given.get("http-port")));
    }

    /** GET /readyz answers 200 once {@code ready} holds. */
    public void answer(AtomicBoolean ready) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", httpPort), 0);
        server.createContext("/readyz", exchange -> {
            exchange.sendResponseHeaders(ready.get() ? 200 : 503, -1);
            exchange.close();
        });
        server.start();
    }

    /** On SIGTERM; the JVM would say 143 for it, also where all went well. */
    public static void onStop(Runnable close) {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            close.run();
            Runtime.getRuntime().halt(0);
        }));
    }
}
