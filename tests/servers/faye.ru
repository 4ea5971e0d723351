# Ruby faye-websocket under puma. All that it does for its connections is to send a Ping every `PING` seconds.
#
# Usage: PING=SECONDS puma --bind tcp://127.0.0.1:PORT faye.ru. What a server does is written in server.py.

require 'faye/websocket'

$stdout.sync = true
puts "version #{Gem::Specification.find_by_name('faye-websocket').version}"

# A socket that tells when one of its Pings was answered.
class Heard < Faye::WebSocket
  def ping(message = '')
    super(message) { puts 'pong' }
  end
end

# Touched by the reactor's thread only.
SOCKETS = []

Thread.new do
  $stdin.each_line(chomp: true) do |line|
    # The library lets a server close with 1000 and with codes of its own only.
    EventMachine.schedule { SOCKETS.each { |socket| socket.close(1000) } } if line == 'close'
  end
end

run(lambda do |env|
  next [426, { 'Content-Type' => 'text/plain' }, ["a WebSocket\n"]] unless Faye::WebSocket.websocket?(env)

  socket = Heard.new(env, [], ping: Float(ENV.fetch('PING')))
  socket.on(:open) do
    SOCKETS << socket
    puts 'open'
  end
  socket.on(:message) { |event| socket.send(event.data) }
  socket.on(:close) do |event|
    SOCKETS.delete(socket)
    puts "closed #{event.code}"
  end
  socket.rack_response
end)
