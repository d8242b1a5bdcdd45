//! Questions and answers in languages other than English.

/// Prompt and answer, each pair in a language of its own.
pub(super) const TEXTS: [(&str, &str); 14] = [
    (
        "Warum ist der Himmel blau?",
        "Die Luft streut blaues Licht viel stärker als rotes. Deshalb kommt das blaue Licht der Sonne aus allen Richtungen zu uns, und der Himmel sieht blau aus.",
    ),
    (
        "Comment faire cuire du riz ?",
        "Rincez le riz, puis mettez-le dans une casserole avec deux fois son volume d'eau. Laissez cuire à feu doux et à couvert pendant une quinzaine de minutes.",
    ),
    (
        "¿Qué puedo visitar en Granada en un día?",
        "Empiece por la Alhambra, con entrada reservada. Por la tarde pasee por el Albaicín y suba al mirador de San Nicolás para ver la puesta de sol.",
    ),
    (
        "Come si scrive una lettera di presentazione?",
        "Presentatevi in poche righe, spiegate perché il posto vi interessa e che cosa sapete fare. Chiudete con un saluto cortese e restate sotto una pagina.",
    ),
    (
        "Como posso dormir melhor?",
        "Deite-se e levante-se sempre à mesma hora, evite café à noite e deixe o telemóvel fora do quarto. Um quarto escuro e fresco também ajuda.",
    ),
    (
        "Jak podlewać kaktusa?",
        "Latem podlewaj go mniej więcej raz na dwa tygodnie, dopiero gdy ziemia całkiem wyschnie. Zimą prawie wcale nie potrzebuje wody.",
    ),
    (
        "Почему вода в море солёная?",
        "Реки вымывают соли из горных пород и несут их в море. Вода испаряется, а соль остаётся, и за миллионы лет её накопилось много.",
    ),
    (
        "İyi bir çay nasıl demlenir?",
        "Suyu kaynatın, demliğe kişi başına bir tatlı kaşığı çay koyun ve üzerine sıcak suyu dökün. Kısık ateşte on beş dakika kadar demlensin.",
    ),
    (
        "怎样才能学好一门外语？",
        "每天坚持练习比偶尔长时间学习更有效。多听、多说，把新词放进句子里记，并且不要怕说错。",
    ),
    (
        "日本の梅雨はいつですか。",
        "多くの地域では六月の初めから七月の中ごろまで続きます。沖縄ではそれより早く、五月に始まります。北海道にははっきりした梅雨がありません。",
    ),
    (
        "김치는 왜 건강에 좋은가요?",
        "김치는 발효 식품이라 유산균이 많고, 배추와 고추에는 비타민과 식이섬유가 들어 있습니다. 다만 소금이 많으니 적당히 먹는 것이 좋습니다.",
    ),
    (
        "ما هي فوائد المشي اليومي؟",
        "المشي نصف ساعة كل يوم يقوي القلب ويحسن المزاج ويساعد على النوم. ابدأ بمسافة قصيرة ثم زدها شيئا فشيئا.",
    ),
    (
        "मानसून कब आता है?",
        "भारत में मानसून सबसे पहले जून की शुरुआत में केरल पहुँचता है। जुलाई के मध्य तक वह लगभग पूरे देश में फैल जाता है।",
    ),
    (
        "Kwa nini miti ni muhimu?",
        "Miti husafisha hewa, huhifadhi maji na kuzuia mmomonyoko wa udongo. Pia hutoa kivuli, matunda na makazi kwa ndege na wanyama wengi.",
    ),
];
