import pytest
from pydantic import ValidationError

from vila2data.errors import BadInput
from vila2data.serve.rules import ServerCommand, ServeRules, server_commands

URLS = ["http://localhost:8000/v1", "http://elsewhere:8000/v1", "http://127.0.0.1:8001/v1"]


def commands(
    rules: ServeRules, urls: list[str] = URLS, gpus: str | None = None
) -> list[ServerCommand]:
    return server_commands(rules, urls, "m", {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})


def test_each_address_of_this_machine_gets_a_command_with_its_port() -> None:
    arguments = {
        "max_model_len": 4096,
        "enforce_eager": True,
        "enable-prefix-caching": False,
        "limit_mm_per_prompt": {"image": 1},
        "middleware": ["a", "b"],
        "revision": None,
    }
    options = [
        "--max-model-len 4096 --enforce-eager --no-enable-prefix-caching",
        "--limit-mm-per-prompt '{\"image\": 1}' --middleware a b",
    ]
    assert [c.shown() for c in commands(ServeRules(model="my model", arguments=arguments))] == [
        f"vllm serve 'my model' --port {port} --served-model-name m --host {host} "
        + " ".join(options)
        for host, port in (("localhost", 8000), ("127.0.0.1", 8001))
    ]


def test_the_host_is_the_arguments_where_they_give_one() -> None:
    (command,) = commands(ServeRules(model="x", arguments={"host": "0.0.0.0"}), URLS[:1])
    assert command.shown().endswith("--host 0.0.0.0")
    assert command.health_url == "http://localhost:8000/health"


@pytest.mark.parametrize(
    ("visible", "dealt"),
    [(None, ["0,1", "2,3"]), ("4,5,6,7,8", ["4,5", "6,7"]), ("a,b,c,d", ["a,b", "c,d"])],
)
def test_each_server_sees_gpus_of_its_own(visible: str | None, dealt: list[str]) -> None:
    found = commands(ServeRules(model="x", gpus_per_server=2), gpus=visible)
    assert [c.environment["CUDA_VISIBLE_DEVICES"] for c in found] == dealt
    assert found[0].shown().startswith(f"CUDA_VISIBLE_DEVICES={dealt[0]} vllm serve x ")


def test_gpus_are_left_as_they_are_where_nothing_is_said() -> None:
    assert [c.environment for c in commands(ServeRules(model="x"), gpus="3")] == [{}, {}]


def test_what_cannot_be_started_is_refused() -> None:
    with pytest.raises(BadInput, match="2 servers of 2 GPUs need 4, and CUDA_VISIBLE_DEVICES is"):
        commands(ServeRules(model="x", gpus_per_server=2), gpus="0,1,2")
    with pytest.raises(BadInput, match="none of http://elsewhere:8000/v1 points at this machine"):
        commands(ServeRules(model="x"), URLS[1:2])
    with pytest.raises(BadInput, match="port 8000 of this machine stands twice"):
        commands(ServeRules(model="x"), [URLS[0], "http://127.0.0.1:8000/v1"])
    with pytest.raises(BadInput, match="http://localhost:99999/v1: Port out of range"):
        commands(ServeRules(model="x"), ["http://localhost:99999/v1"])
    with pytest.raises(ValidationError, match="'served-model-name' is filled in"):
        ServeRules(model="x", arguments={"served-model-name": "y"})


def test_a_manifest_tells_no_absolute_path_of_it() -> None:
    arguments = {"chat_template": "/srv/m/chat.jinja", "max_model_len": 4096, "dtype": "auto"}
    rules = ServeRules(model="/srv/m/vila1", arguments=arguments)
    told = rules.model_dump(mode="json")
    assert told["model"] == "vila1"
    assert told["arguments"] == {**arguments, "chat_template": "chat.jinja"}
    (command,) = commands(rules, URLS[:1])
    assert "--chat-template /srv/m/chat.jinja " in command.shown()
