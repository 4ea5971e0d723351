import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * The JDK's own WebSocket client.
 *
 * <p>Usage: java Jdk.java URL. What a peer does is written in peer.py.
 */
public final class Jdk {
    /** What came: a String, a byte[], or the Integer of a close code. */
    private static final BlockingQueue<Object> ARRIVED = new LinkedBlockingQueue<>();

    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private static final class Listener implements WebSocket.Listener {
        private final StringBuilder text = new StringBuilder();
        private final ByteArrayOutputStream binary = new ByteArrayOutputStream();

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean isLast) {
            text.append(part);
            if (isLast) {
                ARRIVED.add(text.toString());
                text.setLength(0);
            }
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer part, boolean isLast) {
            byte[] bytes = new byte[part.remaining()];
            part.get(bytes);
            binary.writeBytes(bytes);
            if (isLast) {
                ARRIVED.add(binary.toByteArray());
                binary.reset();
            }
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
            ARRIVED.add(code);
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            ARRIVED.add(error);
        }
    }

    private static byte[] pattern(int length) {
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++) {
            bytes[i] = (byte) (i % 251);
        }
        return bytes;
    }

    private static void expect(String command, Object sent) throws InterruptedException {
        Object arrived = ARRIVED.take();
        boolean isSame = sent instanceof byte[] bytes
                ? arrived instanceof byte[] others && Arrays.equals(bytes, others)
                : sent.equals(arrived);
        OUT.println((isSame ? "ok " : "bad ") + command);
    }

    /** Sends what is in a file, in three fragments if it is to be cut. */
    private static void sendFile(WebSocket socket, String command, Path path, boolean isCut) throws Exception {
        byte[] bytes = Files.readAllBytes(path);
        if (path.toString().endsWith(".txt")) {
            String text = new String(bytes, StandardCharsets.UTF_8);
            // The library wants whole characters.
            int points = text.codePointCount(0, text.length());
            int one = isCut ? text.offsetByCodePoints(0, points / 3) : 0;
            int two = isCut ? text.offsetByCodePoints(one, points / 3) : 0;
            if (isCut) {
                socket.sendText(text.substring(0, one), false).join();
                socket.sendText(text.substring(one, two), false).join();
            }
            socket.sendText(text.substring(two), true).join();
            expect(command, text);
        } else {
            int third = isCut ? bytes.length / 3 : 0;
            if (isCut) {
                socket.sendBinary(ByteBuffer.wrap(bytes, 0, third), false).join();
                socket.sendBinary(ByteBuffer.wrap(bytes, third, third), false).join();
            }
            socket.sendBinary(ByteBuffer.wrap(bytes, 2 * third, bytes.length - 2 * third), true).join();
            expect(command, bytes);
        }
    }

    private static void obey(WebSocket socket, String command) throws Exception {
        String[] words = command.split(" ", 2);
        switch (words[0]) {
            case "file", "parts" -> sendFile(socket, command, Path.of(words[1]), words[0].equals("parts"));
            case "text" -> {
                socket.sendText("héllo ✓", true).join();
                expect(command, "héllo ✓");
            }
            case "fragmented" -> {
                socket.sendText("frag", false).join();
                socket.sendText("men", false).join();
                socket.sendText("ted ✓", true).join();
                expect(command, "fragmented ✓");
            }
            case "binary", "large" -> {
                byte[] bytes = pattern(command.equals("large") ? 1 << 20 : 256);
                socket.sendBinary(ByteBuffer.wrap(bytes), true).join();
                expect(command, bytes);
            }
            case "close" -> {
                socket.sendClose(WebSocket.NORMAL_CLOSURE, "").join();
                OUT.println("closed " + ARRIVED.take());
            }
            case "await-close" -> OUT.println("closed " + ARRIVED.take());
            default -> throw new IllegalArgumentException(command);
        }
    }

    /** Trusts the CA in a file in PEM; whom the JDK trusts, if there is none. */
    private static SSLContext trust(String file) throws Exception {
        if (file == null) {
            return SSLContext.getDefault();
        }
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var pem = Files.newInputStream(Path.of(file))) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        var factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, factory.getTrustManagers(), null);
        return context;
    }

    public static void main(String[] arguments) throws Exception {
        OUT.println("version " + System.getProperty("java.version"));
        WebSocket socket = HttpClient.newBuilder()
                .sslContext(trust(System.getenv("SSL_CERT_FILE")))
                .build()
                .newWebSocketBuilder()
                .buildAsync(URI.create(arguments[0]), new Listener())
                .join();
        OUT.println("open");
        var commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String command = commands.readLine(); command != null; command = commands.readLine()) {
            obey(socket, command);
        }
        // The client's threads would keep the program alive.
        System.exit(0);
    }
}
