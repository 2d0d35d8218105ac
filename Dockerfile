FROM python:3.13-slim
WORKDIR /app
COPY *.py ./
COPY siprtp siprtp/
COPY examples examples/
# 100 calls: Docker sets up every published port by itself, so a small range starts faster
ENV BIND_IP=0.0.0.0 RTP_PORT_START=16384 RTP_PORT_END=16583 PYTHONDONTWRITEBYTECODE=1
EXPOSE 5060/udp 5060/tcp 16384-16583/udp
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=2s CMD ["python", "server.py", "--ping"]
ENTRYPOINT ["python", "server.py"]
